#include "coordinator/front/openapi.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace interlace {
namespace {

constexpr absl::string_view kText = R"({"type":["string","null"]})";
constexpr absl::string_view kFlag = R"({"type":["boolean","null"]})";
constexpr absl::string_view kTexts = R"({"type":["array","null"],"items":{"type":"string"}})";
constexpr absl::string_view kIds = R"({"type":"array","items":{"type":"integer","minimum":0,"maximum":2147483647}})";
constexpr absl::string_view kMessages =
    R"({"type":"array","minItems":1,"items":{"type":"object","required":["role","content"],"properties":{)"
    R"("role":{"enum":["system","developer","user","assistant","tool"]},)"
    R"("content":{"anyOf":[{"type":"string"},{"type":"array","items":{"type":"object","required":["type","text"],)"
    R"("properties":{"type":{"const":"text"},"text":{"type":"string"}}}}]}}}})";
constexpr absl::string_view kTools =
    R"({"type":"array","items":{"type":"object","required":["type","function"],"properties":{"type":{"const":"function"},)"
    R"("function":{"type":"object","required":["name"],"properties":{"name":{"type":"string"},"description":{"type":"string"},)"
    R"("parameters":{"type":"object"}}}}}})";

constexpr absl::string_view kFormat = R"({"type":["object","null"],"required":["type"],"properties":{)"
                                      R"("type":{"enum":["text","json_object","json_schema","structural_tag"]}}})";
constexpr absl::string_view kConstraint = R"({"type":["object","null"]})";

constexpr OpenApiField kModel = {"model", kText, "7"};

// Of every generation.
constexpr OpenApiField kShared[] = {
    kModel,
    {"temperature", R"({"type":["number","null"],"minimum":0,"maximum":1000})", "\"a\""},
    {"top_p", R"({"type":["number","null"],"exclusiveMinimum":0,"maximum":1})", "\"a\""},
    {"top_k", R"({"type":["integer","null"],"minimum":-1})", "\"a\""},
    {"min_p", R"({"type":["number","null"],"minimum":0,"maximum":1})", "\"a\""},
    {"typical_p", R"({"type":["number","null"],"exclusiveMinimum":0,"maximum":1})", "\"a\""},
    {"repetition_penalty", R"({"type":["number","null"],"exclusiveMinimum":0,"maximum":100})", "\"a\""},
    {"presence_penalty", R"({"type":["number","null"],"minimum":-2,"maximum":2})", "\"a\""},
    {"frequency_penalty", R"({"type":["number","null"],"minimum":-2,"maximum":2})", "\"a\""},
    {"seed", R"({"type":["integer","null"]})", "\"a\""},
    {"max_tokens", R"({"type":["integer","null"],"minimum":1})", "\"a\""},
    {"min_tokens", R"({"type":["integer","null"],"minimum":0})", "\"a\""},
    {"stop", R"({"anyOf":[{"type":["string","null"]},{"type":"array","items":{"type":"string"},"maxItems":16}]})", "7"},
    {"stop_token_ids", R"({"type":["array","null"],"items":{"type":"integer","minimum":0},"maxItems":256})", "7"},
    {"bad_words", kTexts, "7"},
    {"logit_bias",
     R"({"type":["object","null"],"additionalProperties":{"type":"number","minimum":-100,"maximum":100}})", "7"},
    {"ignore_eos", kFlag, "7"},
    {"skip_special_tokens", kFlag, "7"},
    {"include_stop_str_in_output", kFlag, "7"},
    {"truncate_prompt_tokens", R"({"type":["integer","null"],"minimum":-1})", "\"a\""},
    {"stream", kFlag, "7"},
    {"cache_salt", kText, "7"},
    {"cache",
     R"({"type":["object","null"],"properties":{"no-cache":{"type":["boolean","null"]},"no-store":{"type":["boolean","null"]}}})",
     "7"},
    {"request_id", kText, "7"},
    {"priority", R"({"type":["integer","null"],"minimum":-2147483648,"maximum":2147483647})", "\"a\""},
    {"fairness_id", kText, "7"},
    {"fidelity",
     R"({"anyOf":[{"enum":["exact","bounded","off",null]},{"type":"object","additionalProperties":false,"properties":{)"
     R"("mode":{"enum":["exact","bounded","off"]},"agreement":{"type":["number","null"],"exclusiveMinimum":0,"maximum":1},)"
     R"("exit_layer":{"type":["integer","null"],"minimum":1}}}]})",
     "7"},
    {"deadline_ms", R"({"type":["integer","null"],"minimum":0,"maximum":31536000000})", "\"a\""},
    {"slo",
     R"({"type":["object","null"],"additionalProperties":false,"properties":{"ttft_ms":{"type":"number"},)"
     R"("tpot_ms":{"type":"number"},"largest_gap_ms":{"type":"number"}}})",
     "7"},
};
constexpr OpenApiField kChat[] = {
    {"messages", kMessages, "7"},
    {"tools", kTools, "7"},
    {"tool_choice", R"({"anyOf":[{"enum":["none","auto","required"]},{"type":"object"}]})", "7"},
    {"response_format", kFormat, "7"},
    {"structured_outputs", kConstraint, "7"},
    {"prompt_logprobs", R"({"type":["integer","null"],"minimum":0,"maximum":20})", "\"a\""},
    {"parallel_tool_calls", kFlag, "7"},
    {"include_reasoning", kFlag, "7"},
    {"add_generation_prompt", kFlag, "7"},
    {"continue_final_message", kFlag, "7"},
    {"chat_template_kwargs", R"({"type":["object","null"]})", "7"},
    {"n", R"({"type":["integer","null"],"minimum":1,"maximum":16})", "\"a\""},
    {"max_completion_tokens", R"({"type":["integer","null"],"minimum":1})", "\"a\""},
    {"logprobs", kFlag, "7"},
    {"top_logprobs", R"({"type":["integer","null"],"minimum":0,"maximum":20})", "\"a\""},
    {"stream_options", R"({"type":["object","null"],"properties":{"include_usage":{"type":"boolean"}}})", "7"},
};
constexpr OpenApiField kCompletion[] = {
    {"prompt",
     R"({"anyOf":[{"type":"string"},{"type":"array","minItems":1,"items":{"type":"string"}},)"
     R"({"type":"array","minItems":1,"items":{"type":"integer","minimum":0}},{"type":"array","minItems":1,"items":)"
     R"({"type":"array","minItems":1,"items":{"type":"integer","minimum":0}}}]})",
     "7"},
    {"n", R"({"type":["integer","null"],"minimum":1,"maximum":16})", "\"a\""},
    {"best_of", R"({"type":["integer","null"],"minimum":1,"maximum":16})", "\"a\""},
    {"echo", kFlag, "7"},
    {"logprobs", R"({"type":["integer","null"],"minimum":0,"maximum":20})", "\"a\""},
    {"parse_special", kFlag, "7"},
    {"add_special_tokens", kFlag, "7"},
    {"stream_options", R"({"type":["object","null"],"properties":{"include_usage":{"type":"boolean"}}})", "7"},
};
constexpr OpenApiField kAnthropic[] = {
    {"messages",
     R"({"type":"array","minItems":1,"items":{"type":"object","required":["role","content"],"properties":{)"
     R"("role":{"enum":["user","assistant"]},"content":{"anyOf":[{"type":"string"},{"type":"array","items":)"
     R"({"type":"object","required":["type","text"],"properties":{"type":{"const":"text"},"text":{"type":"string"}}}}]}}}})",
     "7"},
    {"system", R"({"type":["string","null"]})", "7"},
    {"stop_sequences", kTexts, "7"},
    {"tools",
     R"({"type":"array","items":{"type":"object","required":["name","input_schema"],"properties":{"name":{"type":"string"},)"
     R"("description":{"type":"string"},"input_schema":{"type":"object"}}}})",
     "7"},
    {"thinking",
     R"({"type":["object","null"],"required":["type"],"properties":{"type":{"enum":["enabled","disabled"]}}})", "7"},
};
constexpr OpenApiField kResponses[] = {
    {"input",
     R"({"anyOf":[{"type":"string"},{"type":"array","minItems":1,"items":{"type":"object","required":["role","content"],)"
     R"("properties":{"role":{"enum":["user","system","developer","assistant"]},"content":{"type":"string"}}}}]})",
     "7"},
    {"instructions", kText, "7"},
    {"max_output_tokens", R"({"type":["integer","null"],"minimum":1})", "\"a\""},
    {"parallel_tool_calls", kFlag, "7"},
    {"tools",
     R"({"type":"array","items":{"type":"object","required":["type","name"],"properties":{"type":{"const":"function"},)"
     R"("name":{"type":"string"},"description":{"type":"string"},"parameters":{"type":"object"}}}})",
     "7"},
};
constexpr OpenApiField kTokenize[] = {
    kModel,
    {"prompt", R"({"type":"string"})", "7"},
    {"messages", kMessages, "7"},
    {"add_special_tokens", kFlag, "7"},
    {"parse_special", kFlag, "7"},
    {"return_token_strs", kFlag, "7"},
};
constexpr OpenApiField kEmbeddings[] = {
    kModel,
    {"input",
     R"({"anyOf":[{"type":"string"},{"type":"array","minItems":1,"items":{"type":"string"}},)"
     R"({"type":"array","minItems":1,"items":{"type":"integer","minimum":0}}]})",
     "7"},
    {"encoding_format", R"({"enum":["float","base64"]})", "7"},
};
constexpr OpenApiField kOfReplica = {"replica", R"({"type":["integer","null"],"minimum":0})", "\"a\""};
constexpr OpenApiField kDrain[] = {
    {"timeout_seconds", R"({"type":["number","null"],"minimum":0,"maximum":31536000})", "\"a\""}, kOfReplica};
constexpr OpenApiField kResume[] = {kOfReplica};
constexpr OpenApiField kLoadAdapter[] = {{"lora_name", R"({"type":"string","minLength":1})", "7"},
                                         {"lora_path", R"({"type":"string","minLength":1})", "7"},
                                         {"load_inplace", kFlag, "7"}};
constexpr OpenApiField kUnloadAdapter[] = {{"lora_name", R"({"type":"string","minLength":1})", "7"},
                                           {"lora_int_id", R"({"type":["integer","null"]})", ""}};
constexpr OpenApiField kDetokenize[] = {kModel, {"tokens", kIds, "7"}};

constexpr absl::string_view kWantsMessages[] = {"messages"}, kWantsPrompt[] = {"prompt"}, kWantsInput[] = {"input"},
                            kWantsTokens[] = {"tokens"}, kWantsMessagesAndMost[] = {"messages", "max_tokens"},
                            kWantsNameAndPath[] = {"lora_name", "lora_path"}, kWantsName[] = {"lora_name"};
constexpr char kHi[] = R"({"messages":[{"role":"user","content":"hi"}],"max_tokens":4})";

constexpr OpenApiPath kPaths[] = {
    {"POST", "/v1/chat/completions", "OpenAI's chat completions", kHi, kChat, kShared, kWantsMessages},
    {"POST", "/v1/completions", "OpenAI's completions", R"({"prompt":"hi","max_tokens":4})", kCompletion, kShared,
     kWantsPrompt},
    {"POST", "/v1/messages", "Anthropic's messages", kHi, kAnthropic, kShared, kWantsMessagesAndMost},
    {"POST", "/v1/messages/count_tokens", "tokens of such a request", kHi, kAnthropic, {}, kWantsMessages},
    {"POST", "/v1/responses", "OpenAI's responses", R"({"input":"hi","max_output_tokens":4})", kResponses, kShared,
     kWantsInput},
    {"POST", "/v1/embeddings", "the mean of the last hidden states", R"({"input":"hi"})", kEmbeddings, {}, kWantsInput},
    {"POST", "/tokenize", "tokens of a prompt or of messages", R"({"prompt":"hi"})", kTokenize},
    {"POST", "/detokenize", "the text of tokens", R"({"tokens":[1,2]})", kDetokenize, {}, kWantsTokens},
    {"GET", "/tokenizer_info", "what tokens mark and end texts"},
    {"GET", "/v1/models", "what can be served now"},
    {"GET", "/v1/models/{id}", "one model"},
    {"POST",
     "/v1/load_lora_adapter",
     "serves one more LoRA adapter",
     R"({"lora_name":"sql","lora_path":"sql"})",
     kLoadAdapter,
     {},
     kWantsNameAndPath,
     /*runtime_adapters=*/true},
    {"POST",
     "/v1/unload_lora_adapter",
     "serves it no more",
     R"({"lora_name":"sql"})",
     kUnloadAdapter,
     {},
     kWantsName,
     /*runtime_adapters=*/true},
    {"GET", "/health", "200 when all ranks are there"},
    {"GET", "/ready", "the same"},
    {"GET", "/ping", "the same"},
    {"POST", "/ping", "the same"},
    {"GET", "/load", "requests under way"},
    {"GET", "/version", "the version"},
    {"GET", "/metrics", "Prometheus"},
    {"GET", "/openapi.json", "this"},
    {"GET", "/debug/requests/{id}", "what became of a request"},
    {"GET", "/debug/drain", "how far a drain has got"},
    {"POST", "/debug/drain", "refuses new requests, and lets those that run finish; or takes a replica away",
     R"({"timeout_seconds":30})", kDrain},
    {"POST", "/debug/resume", "takes new requests again", "{}", kResume},
    {"GET", "/ui", "the page"},
    {"GET", "/ui/state", "what the page shows"},
    {"GET", "/ui/explain", "what became of the request that the query names as id"},
};

std::string Properties(const OpenApiPath& path) {
  std::vector<std::string> members;
  for (const auto& fields : {path.own, path.shared}) {
    for (const OpenApiField& field : fields) members.push_back(absl::StrCat("\"", field.name, "\":", field.schema));
  }
  return absl::StrJoin(members, ",");
}

std::string BodyJson(const OpenApiPath& path) {
  if (path.example.empty()) return "";
  const auto quoted = [](std::string* out, absl::string_view name) { absl::StrAppend(out, "\"", name, "\""); };
  return absl::StrCat(R"("requestBody":{"required":true,"content":{"application/json":{"example":)", path.example,
                      R"(,"schema":{"type":"object","required":[)", absl::StrJoin(path.required, ",", quoted),
                      R"(],"properties":{)", Properties(path), "}}}}},");
}

std::string OperationJson(const OpenApiPath& path) {
  const bool named = absl::StrContains(path.path, "{id}");
  // A stream is answered as text/event-stream, which no schema describes.
  return absl::StrCat(
      "\"", path.method == "GET" ? "get" : "post", "\":{\"summary\":\"", path.what, "\",",
      named ? R"("parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"string"}}],)" : "",
      BodyJson(path), R"("responses":{"200":{"description":"done"},)",
      R"("default":{"description":"refused","content":{"application/json":{"schema":{"type":"object"}}}}}})");
}

}  // namespace

absl::Span<const OpenApiPath> OpenApiPaths() { return kPaths; }

std::string OpenApiJson(absl::string_view version, bool runtime_adapters) {
  std::string paths;
  absl::string_view before;
  for (const OpenApiPath& path : kPaths) {
    if (path.runtime_adapters && !runtime_adapters) continue;
    const bool same = path.path == before;  // methods of one path follow each other
    absl::StrAppend(&paths,
                    paths.empty() ? ""
                    : same        ? ","
                                  : "},",
                    same ? "" : absl::StrCat("\"", path.path, "\":{"), OperationJson(path));
    before = path.path;
  }
  return absl::StrCat(
      R"({"openapi":"3.1.0","info":{"title":"Interlace","version":")", version,
      R"("},"security":[{},{"key":[]}],"components":{"securitySchemes":{"key":{"type":"http","scheme":"bearer"}}},)",
      R"("paths":{)", paths, "}}}");
}

}  // namespace interlace
