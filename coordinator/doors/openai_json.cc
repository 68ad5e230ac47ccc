#include "coordinator/doors/openai_json.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

absl::Status Refuse(absl::string_view field, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", why));
}

absl::StatusOr<Json> ParseObject(absl::string_view body) {
  Json json = Json::parse(body.data(), body.data() + body.size(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("the body is not valid JSON");
  if (!json.is_object()) return absl::InvalidArgumentError("the body is not a JSON object");
  return json;
}

// A member that is present and not null, or null.
const Json* Member(const Json& json, const char* field) {
  auto it = json.find(field);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

absl::Status Read(const Json& json, const char* field, std::optional<float>* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number()) return Refuse(field, "must be a number");
  *out = value->get<float>();
  return absl::OkStatus();
}

template <typename T>
absl::Status Read(const Json& json, const char* field, std::optional<T>* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number_integer()) return Refuse(field, "must be an integer");
  if constexpr (sizeof(T) < sizeof(int64_t)) {
    const int64_t wide = value->is_number_unsigned() && value->get<uint64_t>() > (uint64_t{1} << 62)
                             ? std::numeric_limits<int64_t>::max()
                             : value->get<int64_t>();
    if (wide < std::numeric_limits<T>::min() || wide > std::numeric_limits<T>::max()) {
      return Refuse(field, "is out of range");
    }
    *out = static_cast<T>(wide);
  } else {
    *out = value->is_number_unsigned() ? static_cast<T>(value->get<uint64_t>()) : static_cast<T>(value->get<int64_t>());
  }
  return absl::OkStatus();
}

absl::Status Read(const Json& json, const char* field, bool* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) return Refuse(field, "must be true or false");
  *out = value->get<bool>();
  return absl::OkStatus();
}

absl::Status Read(const Json& json, const char* field, std::string* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_string()) return Refuse(field, "must be a text");
  *out = value->get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadStop(const Json& json, std::vector<std::string>* out) {
  const Json* value = Member(json, "stop");
  if (value == nullptr) return absl::OkStatus();
  if (value->is_string()) {
    out->push_back(value->get<std::string>());
    return absl::OkStatus();
  }
  if (!value->is_array()) return Refuse("stop", "must be a text or a list of texts");
  for (const Json& item : *value) {
    if (!item.is_string()) return Refuse("stop", "must be a text or a list of texts");
    out->push_back(item.get<std::string>());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ReadIds(const Json& json, absl::string_view field) {
  std::vector<int32_t> ids;
  for (const Json& item : json) {
    if (!item.is_number_integer()) return Refuse(field, "must hold token ids");
    const int64_t id = item.get<int64_t>();
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) return Refuse(field, absl::StrCat(id, " is no token id"));
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

// What is understood and not built in: asking for it is an error, never ignored.
absl::Status RefuseUnsupported(const Json& json) {
  for (const char* field : {"presence_penalty", "frequency_penalty", "min_p"}) {
    const Json* value = Member(json, field);
    if (value != nullptr && (!value->is_number() || value->get<double>() != 0)) {
      return Refuse(field, "is not supported; leave it out or set it to 0");
    }
  }
  const Json* repetition = Member(json, "repetition_penalty");
  if (repetition != nullptr && (!repetition->is_number() || repetition->get<double>() != 1)) {
    return Refuse("repetition_penalty", "is not supported; leave it out or set it to 1");
  }
  for (const char* field : {"logprobs", "top_logprobs", "prompt_logprobs", "echo", "use_beam_search"}) {
    const Json* value = Member(json, field);
    if (value != nullptr && *value != false && *value != 0) return Refuse(field, "is not supported; leave it out");
  }
  for (const char* field : {"logit_bias", "tools", "functions", "tool_choice", "function_call", "suffix",
                            "structured_outputs", "bad_words", "allowed_token_ids", "modalities", "audio"}) {
    const Json* value = Member(json, field);
    const bool off = value == nullptr || (value->is_structured() && value->empty()) || *value == "none" || *value == "";
    if (!off) return Refuse(field, "is not supported; leave it out");
  }
  if (const Json* format = Member(json, "response_format")) {
    if (!format->is_object() || format->value("type", Json()) != "text") {
      return Refuse("response_format", "only {\"type\": \"text\"} is supported");
    }
  }
  std::optional<int32_t> best_of, min_tokens, priority;
  RETURN_IF_ERROR(Read(json, "best_of", &best_of));
  RETURN_IF_ERROR(Read(json, "min_tokens", &min_tokens));
  RETURN_IF_ERROR(Read(json, "priority", &priority));
  if (best_of.value_or(1) != 1) return Refuse("best_of", "only 1 is supported");
  if (min_tokens.value_or(0) != 0) return Refuse("min_tokens", "is not supported; leave it out or set it to 0");
  if (priority.value_or(0) != 0) return Refuse("priority", "sched.policy=fcfs serves all alike; leave it out");
  return absl::OkStatus();
}

absl::StatusOr<OpenAiRequest> ParseShared(const Json& json) {
  OpenAiRequest request;
  RETURN_IF_ERROR(RefuseUnsupported(json));
  RETURN_IF_ERROR(Read(json, "model", &request.model));
  RETURN_IF_ERROR(Read(json, "stream", &request.stream));
  if (const Json* options = Member(json, "stream_options")) {
    if (!options->is_object()) return Refuse("stream_options", "must be an object");
    RETURN_IF_ERROR(Read(*options, "include_usage", &request.include_usage));
    RETURN_IF_ERROR(Read(*options, "continuous_usage_stats", &request.continuous_usage));
  }
  GenerationSpec& spec = request.spec;
  spec.deadline = absl::InfiniteDuration();
  std::optional<int32_t> n, completion_tokens;
  std::optional<uint64_t> deadline_ms;
  RETURN_IF_ERROR(Read(json, "n", &n));
  RETURN_IF_ERROR(Read(json, "temperature", &spec.temperature));
  RETURN_IF_ERROR(Read(json, "top_p", &spec.top_p));
  RETURN_IF_ERROR(Read(json, "top_k", &spec.top_k));
  RETURN_IF_ERROR(Read(json, "seed", &spec.seed));
  RETURN_IF_ERROR(Read(json, "max_tokens", &spec.max_tokens));
  RETURN_IF_ERROR(Read(json, "max_completion_tokens", &completion_tokens));
  RETURN_IF_ERROR(Read(json, "ignore_eos", &spec.ignore_eos));
  RETURN_IF_ERROR(Read(json, "request_id", &spec.name));
  RETURN_IF_ERROR(Read(json, "deadline_ms", &deadline_ms));
  RETURN_IF_ERROR(ReadStop(json, &spec.stop));
  if (completion_tokens) spec.max_tokens = completion_tokens;
  if (deadline_ms) spec.deadline = absl::Milliseconds(std::min<uint64_t>(*deadline_ms, 1u << 31));
  request.n = n.value_or(1);
  if (request.n < 1 || request.n > 16) return Refuse("n", "must be from 1 to 16");
  if (const Json* ids = Member(json, "stop_token_ids")) {
    if (!ids->is_array()) return Refuse("stop_token_ids", "must be a list");
    ASSIGN_OR_RETURN(spec.stop_token_ids, ReadIds(*ids, "stop_token_ids"));
  }
  return request;
}

// "text", or [{"type": "text", "text": "..."}, ...].
absl::StatusOr<std::string> ReadContent(const Json& message, const std::string& where) {
  const Json* content = Member(message, "content");
  if (content == nullptr) return Refuse(where, "has no content");
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) return Refuse(where, "content must be a text or a list of parts");
  std::string text;
  for (const Json& part : *content) {
    if (!part.is_object() || part.value("type", Json()) != "text" || !part.contains("text") ||
        !part["text"].is_string()) {
      return Refuse(where, "only parts of type text are supported");
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

OrderedJson Head(const OpenAiReply& reply, bool chunk) {
  OrderedJson json;
  json["id"] = reply.id;
  json["object"] = reply.chat ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion";
  json["created"] = reply.created;
  json["model"] = reply.model;
  return json;
}

OrderedJson ToJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", 0}}}};
}

// Clients' ids and models may hold any bytes: what is not UTF-8 is replaced, never thrown about.
std::string Dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

std::string Chunk(const OpenAiReply& reply, OrderedJson choice, const Usage* usage) {
  OrderedJson json = Head(reply, /*chunk=*/true);
  json["choices"] = OrderedJson::array({std::move(choice)});
  if (usage != nullptr) json["usage"] = ToJson(*usage);
  return Dump(json);
}

}  // namespace

absl::StatusOr<OpenAiRequest> ParseChat(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ASSIGN_OR_RETURN(OpenAiRequest request, ParseShared(json));
  request.chat = true;
  const Json* messages = Member(json, "messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return Refuse("messages", "must be a list with at least one message");
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string where = absl::StrCat("messages[", i, "]");
    if (!message.is_object()) return Refuse(where, "must be an object");
    ChatMessage out;
    RETURN_IF_ERROR(Read(message, "role", &out.role));
    if (out.role == "developer") out.role = "system";
    ASSIGN_OR_RETURN(out.content, ReadContent(message, where));
    request.messages.push_back(std::move(out));
  }
  return request;
}

absl::StatusOr<OpenAiRequest> ParseCompletion(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ASSIGN_OR_RETURN(OpenAiRequest request, ParseShared(json));
  const Json* prompt = Member(json, "prompt");
  if (prompt == nullptr) return Refuse("prompt", "is missing");
  if (prompt->is_string()) {
    request.texts.push_back(prompt->get<std::string>());
    return request;
  }
  if (!prompt->is_array() || prompt->empty()) return Refuse("prompt", "must be a text, a list of texts, or token ids");
  if ((*prompt)[0].is_number()) {
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadIds(*prompt, "prompt"));
    request.token_prompts.push_back(std::move(ids));
    return request;
  }
  if (prompt->size() > 16) return Refuse("prompt", "at most 16 prompts in one request");
  for (const Json& item : *prompt) {
    if (item.is_string() && request.token_prompts.empty()) {
      request.texts.push_back(item.get<std::string>());
    } else if (item.is_array() && request.texts.empty()) {
      ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadIds(item, "prompt"));
      request.token_prompts.push_back(std::move(ids));
    } else {
      return Refuse("prompt", "must be a text, a list of texts, or token ids");
    }
  }
  return request;
}

std::string RoleChunk(const OpenAiReply& reply, int32_t choice) {
  return Chunk(reply,
               {{"index", choice}, {"delta", {{"role", "assistant"}, {"content", ""}}}, {"finish_reason", nullptr}},
               nullptr);
}

std::string TextChunk(const OpenAiReply& reply, int32_t choice, absl::string_view text, const Usage* usage) {
  OrderedJson json{{"index", choice}};
  if (reply.chat) {
    json["delta"] = {{"content", std::string(text)}};
  } else {
    json["text"] = std::string(text);
  }
  json["finish_reason"] = nullptr;
  return Chunk(reply, std::move(json), usage);
}

std::string FinishChunk(const OpenAiReply& reply, int32_t choice, absl::string_view reason, const Usage* usage) {
  OrderedJson json{{"index", choice}};
  if (reply.chat) {
    json["delta"] = OrderedJson::object();
  } else {
    json["text"] = "";
  }
  json["finish_reason"] = std::string(reason);
  return Chunk(reply, std::move(json), usage);
}

std::string UsageChunk(const OpenAiReply& reply, const Usage& usage) {
  OrderedJson json = Head(reply, /*chunk=*/true);
  json["choices"] = OrderedJson::array();
  json["usage"] = ToJson(usage);
  return Dump(json);
}

std::string FullAnswer(const OpenAiReply& reply, const std::vector<OpenAiChoice>& choices, const Usage& usage) {
  OrderedJson json = Head(reply, /*chunk=*/false);
  json["choices"] = OrderedJson::array();
  for (size_t i = 0; i < choices.size(); ++i) {
    OrderedJson choice{{"index", i}};
    if (reply.chat) {
      choice["message"] = {{"role", "assistant"}, {"content", choices[i].text}};
    } else {
      choice["text"] = choices[i].text;
    }
    choice["logprobs"] = nullptr;
    choice["finish_reason"] = choices[i].finish_reason;
    json["choices"].push_back(std::move(choice));
  }
  json["usage"] = ToJson(usage);
  return Dump(json);
}

namespace {
OrderedJson EntryOf(absl::string_view model, int32_t context, int64_t created) {
  return {{"id", std::string(model)},   {"object", "model"}, {"created", created},      {"owned_by", "interlace"},
          {"root", std::string(model)}, {"parent", nullptr}, {"max_model_len", context}};
}
}  // namespace

std::string ModelEntry(absl::string_view model, int32_t context, int64_t created) {
  return Dump(EntryOf(model, context, created));
}

std::string ModelList(absl::string_view model, int32_t context, int64_t created) {
  return Dump({{"object", "list"}, {"data", OrderedJson::array({EntryOf(model, context, created)})}});
}

std::string ExplainJson(const Explanation& e) {
  OrderedJson json;
  json["request_id"] = e.name;
  json["state"] = e.state;
  json["status"] = e.end.status.ToString();
  json["prompt_tokens"] = e.end.prompt_tokens;
  json["completion_tokens"] = e.end.completion_tokens;
  json["keep_layers"] = e.keep_layers;
  json["steps"] = e.steps;
  json["recomputes"] = e.recomputes;
  json["recomputed_tokens"] = e.recomputed_tokens;
  json["preemptions"] = e.preemptions;
  json["queue_seconds"] = absl::ToDoubleSeconds(e.end.timing.queue);
  json["first_token_seconds"] = absl::ToDoubleSeconds(e.end.timing.first_token);
  json["total_seconds"] = absl::ToDoubleSeconds(e.end.timing.total);
  json["tiers"] = e.tiers;
  json["layers"] = OrderedJson::array();
  for (size_t l = 0; l < e.layers.size(); ++l) {
    const LayerExplanation& layer = e.layers[l];
    json["layers"].push_back({{"layer", l},
                              {"stage", layer.stage},
                              {"mode", layer.kept ? "keep" : "stream"},
                              {"blocks_device", layer.blocks_device},
                              {"blocks_tier", layer.blocks_tier},
                              {"bytes_in", layer.bytes_in},
                              {"bytes_out", layer.bytes_out},
                              {"stall_us", layer.stall_us}});
  }
  json["notes"] = e.notes;
  return Dump(json);
}

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
      return 400;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return absl::StrContains(status.message(), "can never run") ? 400 : 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string ErrorBody(const absl::Status& status, int http_status) {
  const std::string message(status.message());
  const char* type = http_status < 429    ? "invalid_request_error"
                     : http_status == 429 ? "rate_limit_error"
                                          : "server_error";
  OrderedJson error{{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}};
  if (absl::StrContains(message, "the context is")) error["code"] = "context_length_exceeded";
  if (http_status == 400 && status.code() == absl::StatusCode::kResourceExhausted)
    error["code"] = "kv_capacity_exceeded";
  const size_t colon = message.find(": ");
  if (http_status == 400 && colon != std::string::npos && message.find(' ') > colon)
    error["param"] = message.substr(0, colon);
  return Dump({{"error", std::move(error)}});
}

absl::StatusOr<std::string> ParseTokenize(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  if (Member(json, "prompt") == nullptr) return Refuse("prompt", "is missing");
  std::string text;
  RETURN_IF_ERROR(Read(json, "prompt", &text));
  return text;
}

absl::StatusOr<std::vector<int32_t>> ParseDetokenize(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  const Json* tokens = Member(json, "tokens");
  if (tokens == nullptr || !tokens->is_array()) return Refuse("tokens", "must be a list of token ids");
  return ReadIds(*tokens, "tokens");
}

std::string TokenizeAnswer(absl::Span<const int32_t> tokens, int32_t context) {
  return Dump({{"count", tokens.size()},
               {"max_model_len", context},
               {"tokens", std::vector<int32_t>(tokens.begin(), tokens.end())}});
}

std::string DetokenizeAnswer(absl::string_view text) { return Dump({{"prompt", std::string(text)}}); }

}  // namespace interlace
