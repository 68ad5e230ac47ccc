#include "coordinator/front/openai_json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/json_text.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

// No field has a use for more. Values nest at most this deep from here on, so that what recurses over them is safe.
constexpr int kDeepest = 64;

// What is understood and not built in, and the values (a JSON list) that ask for nothing; null always does.
struct Unsupported {
  const char* field;
  const char* harmless;
};
constexpr Unsupported kUnsupported[] = {
    {"allowed_token_ids", "[[]]"},
    {"audio", "[]"},
    {"best_of", "[1]"},
    {"chat_template", "[]"},
    {"chat_template_kwargs", "[{}]"},
    {"continue_final_message", "[false]"},
    {"documents", "[[]]"},
    {"echo", "[false]"},
    {"function_call", "[\"none\", \"auto\"]"},
    {"functions", "[[]]"},
    {"guided_choice", "[[]]"},
    {"guided_grammar", "[]"},
    {"guided_json", "[]"},
    {"guided_regex", "[]"},
    {"include_stop_str_in_output", "[false]"},
    {"kv_transfer_params", "[{}]"},
    {"length_penalty", "[1]"},
    {"modalities", "[[\"text\"]]"},
    {"prompt_embeds", "[]"},
    {"prompt_logprobs", "[]"},
    {"response_format", "[{\"type\": \"text\"}]"},
    {"return_token_ids", "[false]"},
    {"skip_special_tokens", "[true]"},
    {"structured_outputs", "[{}]"},
    {"suffix", "[\"\"]"},
    {"tool_choice", "[\"none\", \"auto\"]"},
    {"tools", "[[]]"},
    {"truncate_prompt_tokens", "[]"},
    {"use_beam_search", "[false]"},
};

absl::StatusOr<Json> ParseObject(absl::string_view body) {
  if (NestsDeeper(body, kDeepest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body nests arrays or objects deeper than ", kDeepest, " levels"));
  }
  Json json = Json::parse(body.data(), body.data() + body.size(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return FaultOf(body);
  if (!json.is_object()) return absl::InvalidArgumentError("the body is not a JSON object");
  return json;
}

// A member that is present and not null; else null.
const Json* Member(const Json& json, const char* field) {
  const auto it = json.find(field);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

// A value as an error names it: the begin of its JSON.
std::string Shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  return text.size() <= 40 ? text : absl::StrCat(text.substr(0, 40), "...");
}

absl::Status RefuseUnsupported(const Json& json) {
  for (const Unsupported& row : kUnsupported) {
    const Json* value = Member(json, row.field);
    if (value == nullptr) continue;
    const Json harmless = Json::parse(row.harmless, nullptr, /*allow_exceptions=*/false);
    if (std::find(harmless.begin(), harmless.end(), *value) != harmless.end()) continue;
    std::string allowed;
    for (const Json& v : harmless) absl::StrAppend(&allowed, allowed.empty() ? "" : " or ", v.dump());
    return BadField(row.field, absl::StrCat("is not supported here; leave it out",
                                            allowed.empty() ? "" : absl::StrCat(" (or send ", allowed, ")")));
  }
  return absl::OkStatus();
}

absl::Status Read(const Json& json, const char* field, std::optional<double>* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_number()) return BadField(field, absl::StrCat("must be a number, not ", Shown(*value)));
  *out = value->get<double>();
  return absl::OkStatus();
}

// Integers, and floats that are integers: some clients print 16 as 16.0.
absl::Status Read(const Json& json, const char* field, std::optional<int64_t>* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (value->is_number_unsigned()) {
    const uint64_t wide = value->get<uint64_t>();
    if (wide > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return BadField(field, absl::StrCat(wide, " is out of range"));
    }
    *out = static_cast<int64_t>(wide);
  } else if (value->is_number_integer()) {
    *out = value->get<int64_t>();
  } else if (value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>()) {
    if (std::abs(value->get<double>()) >= 0x1p53)
      return BadField(field, absl::StrCat(Shown(*value), " is out of range"));
    *out = static_cast<int64_t>(value->get<double>());
  } else {
    return BadField(field, absl::StrCat("must be an integer, not ", Shown(*value)));
  }
  return absl::OkStatus();
}

absl::Status Read(const Json& json, const char* field, bool* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) return BadField(field, "must be true or false");
  *out = value->get<bool>();
  return absl::OkStatus();
}

absl::Status Read(const Json& json, const char* field, std::string* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_string()) return BadField(field, "must be a string");
  *out = value->get<std::string>();
  return absl::OkStatus();
}

// A string or a list of strings.
absl::Status ReadTexts(const Json& json, const char* field, std::vector<std::string>* out) {
  const Json* value = Member(json, field);
  if (value == nullptr) return absl::OkStatus();
  if (value->is_string()) {
    out->push_back(value->get<std::string>());
    return absl::OkStatus();
  }
  if (!value->is_array()) return BadField(field, "must be a string or a list of strings");
  for (const Json& item : *value) {
    if (!item.is_string()) return BadField(field, "must be a string or a list of strings");
    out->push_back(item.get_ref<const std::string&>());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ReadIds(const Json& json, absl::string_view field) {
  if (!json.is_array()) return BadField(field, "must be a list of token ids");
  std::vector<int32_t> ids;
  ids.reserve(json.size());
  for (const Json& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
      return BadField(field, "must hold token ids alone");
    }
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

// "text", or [{"type": "text", "text": "..."}, ...].
absl::StatusOr<std::string> ReadContent(const Json& message, absl::string_view where) {
  const Json* content = Member(message, "content");
  if (content == nullptr) return BadField(where, "has no content");
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) return BadField(where, "content must be a string or a list of parts");
  std::string text;
  for (const Json& part : *content) {
    const Json* type = part.is_object() ? Member(part, "type") : nullptr;
    const Json* words = part.is_object() ? Member(part, "text") : nullptr;
    if (type == nullptr || *type != "text" || words == nullptr || !words->is_string()) {
      return BadField(where, "only content parts {\"type\": \"text\", \"text\": ...} are supported");
    }
    text += words->get_ref<const std::string&>();
  }
  return text;
}

absl::StatusOr<std::vector<ChatMessage>> ReadMessages(const Json& json) {
  const Json* list = Member(json, "messages");
  if (list == nullptr || !list->is_array() || list->empty()) {
    return BadField("messages", "must be a list with at least one message");
  }
  std::vector<ChatMessage> messages;
  for (const Json& item : *list) {
    const std::string where = absl::StrCat("messages[", messages.size(), "]");
    if (!item.is_object()) return BadField(where, "must be an object");
    const Json* role = Member(item, "role");
    if (role == nullptr || !role->is_string()) return BadField(where, "has no role");
    for (const char* field : {"tool_calls", "function_call", "audio"}) {
      const Json* value = Member(item, field);
      if (value != nullptr && !value->empty()) return BadField(where, absl::StrCat(field, " is not supported here"));
    }
    ChatMessage message{role->get<std::string>(), ""};
    if (message.role == "developer") message.role = "system";  // its newer name
    ASSIGN_OR_RETURN(message.content, ReadContent(item, where));
    messages.push_back(std::move(message));
  }
  return messages;
}

// A text, a list of texts, token ids, or a list of lists of token ids.
absl::StatusOr<std::vector<Prompt>> ReadPrompts(const Json& json) {
  const Json* prompt = Member(json, "prompt");
  if (prompt == nullptr) return BadField("prompt", "is missing");
  if (prompt->is_string()) return std::vector<Prompt>{prompt->get<std::string>()};
  if (!prompt->is_array() || prompt->empty()) {
    return BadField("prompt", "must be a string, a list of strings, token ids or a list of token id lists");
  }
  std::vector<Prompt> prompts;
  if (prompt->front().is_number()) {
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadIds(*prompt, "prompt"));
    prompts.emplace_back(std::move(ids));
    return prompts;
  }
  if (prompt->size() > 16) return BadField("prompt", "holds more than 16 prompts");
  for (const Json& item : *prompt) {
    if (item.type() != prompt->front().type()) return BadField("prompt", "mixes strings and token ids");
    if (item.is_string()) {
      prompts.emplace_back(item.get<std::string>());
    } else {
      ASSIGN_OR_RETURN(std::vector<int32_t> ids, ReadIds(item, "prompt"));
      prompts.emplace_back(std::move(ids));
    }
  }
  return prompts;
}

// {"token id": bias, ...}.
absl::Status ReadBias(const Json& json, std::vector<std::pair<int64_t, double>>* out) {
  const Json* value = Member(json, "logit_bias");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_object()) return BadField("logit_bias", "must be an object of token ids and numbers");
  for (const auto& [key, bias] : value->items()) {
    int64_t token = 0;
    if (!absl::SimpleAtoi(key, &token)) {
      return BadField("logit_bias", absl::StrCat("'", key.substr(0, 40), "' is no token id"));
    }
    if (!bias.is_number()) return BadField("logit_bias", "must be an object of token ids and numbers");
    out->emplace_back(token, bias.get<double>());
  }
  return absl::OkStatus();
}

// slo: {ttft_ms, tpot_ms, largest_gap_ms}. It is ours, so a name that it does not have is a slip and not a later
// version.
absl::Status ReadSlo(const Json& json, TargetSpec* targets) {
  const Json* slo = Member(json, "slo");
  if (slo == nullptr) return absl::OkStatus();
  if (!slo->is_object()) return BadField("slo", absl::StrCat(Shown(*slo), " is not an object"));
  for (const auto& [name, value] : slo->items()) {
    std::optional<double>* ms = name == "ttft_ms"          ? &targets->ttft_ms
                                : name == "tpot_ms"        ? &targets->tpot_ms
                                : name == "largest_gap_ms" ? &targets->largest_gap_ms
                                                           : nullptr;
    if (ms == nullptr) {
      return BadField("slo", absl::StrCat(Shown(name), " is not known; it has ttft_ms, tpot_ms and largest_gap_ms"));
    }
    if (value.is_null()) continue;
    const std::string field = absl::StrCat("slo.", name);
    if (!value.is_number()) return BadField(field, absl::StrCat(Shown(value), " is not a number of milliseconds"));
    *ms = value.get<double>();
  }
  return absl::OkStatus();
}

absl::Status ReadTargets(const Json& json, TargetSpec* targets) {
  std::optional<int64_t> deadline_ms;
  RETURN_IF_ERROR(Read(json, "deadline_ms", &deadline_ms));
  if (deadline_ms) targets->deadline_ms = static_cast<double>(*deadline_ms);
  RETURN_IF_ERROR(Read(json, "priority", &targets->priority));
  if (Member(json, "fairness_id") != nullptr) {
    RETURN_IF_ERROR(Read(json, "fairness_id", &targets->fairness_id.emplace()));
  }
  return ReadSlo(json, targets);
}

absl::Status ReadSampling(const Json& json, GenerationSpec* spec) {
  std::optional<int64_t> n, seed, completion_tokens;
  RETURN_IF_ERROR(Read(json, "n", &n));
  RETURN_IF_ERROR(Read(json, "seed", &seed));
  RETURN_IF_ERROR(Read(json, "max_tokens", &spec->max_tokens));
  RETURN_IF_ERROR(Read(json, "max_completion_tokens", &completion_tokens));
  RETURN_IF_ERROR(Read(json, "temperature", &spec->temperature));
  RETURN_IF_ERROR(Read(json, "top_p", &spec->top_p));
  RETURN_IF_ERROR(Read(json, "top_k", &spec->top_k));
  RETURN_IF_ERROR(Read(json, "min_p", &spec->min_p));
  RETURN_IF_ERROR(Read(json, "typical_p", &spec->typical_p));
  RETURN_IF_ERROR(Read(json, "repetition_penalty", &spec->repetition_penalty));
  RETURN_IF_ERROR(Read(json, "presence_penalty", &spec->presence_penalty));
  RETURN_IF_ERROR(Read(json, "frequency_penalty", &spec->frequency_penalty));
  RETURN_IF_ERROR(Read(json, "min_tokens", &spec->min_tokens));
  RETURN_IF_ERROR(Read(json, "ignore_eos", &spec->ignore_eos));
  RETURN_IF_ERROR(ReadTexts(json, "stop", &spec->stop));
  RETURN_IF_ERROR(ReadTexts(json, "bad_words", &spec->bad_words));
  RETURN_IF_ERROR(ReadBias(json, &spec->logit_bias));
  if (const Json* ids = Member(json, "stop_token_ids")) {
    ASSIGN_OR_RETURN(spec->stop_token_ids, ReadIds(*ids, "stop_token_ids"));
  }
  if (n && (*n < 1 || *n > 16)) return BadField("n", absl::StrCat(*n, " is out of range: it must be 1 to 16"));
  spec->n = static_cast<int32_t>(n.value_or(1));
  if (seed) spec->seed = static_cast<uint64_t>(*seed);
  if (completion_tokens) spec->max_tokens = completion_tokens;
  return absl::OkStatus();
}

absl::StatusOr<OpenAiRequest> ParseShared(const Json& json) {
  OpenAiRequest request;
  RETURN_IF_ERROR(RefuseUnsupported(json));
  RETURN_IF_ERROR(Read(json, "model", &request.spec.model));
  RETURN_IF_ERROR(Read(json, "request_id", &request.spec.name));
  RETURN_IF_ERROR(Read(json, "cache_salt", &request.spec.salt));
  RETURN_IF_ERROR(Read(json, "stream", &request.stream));
  if (const Json* options = Member(json, "stream_options")) {
    if (!options->is_object()) return BadField("stream_options", "must be an object");
    RETURN_IF_ERROR(Read(*options, "include_usage", &request.include_usage));
    RETURN_IF_ERROR(Read(*options, "continuous_usage_stats", &request.continuous_usage));
  }
  RETURN_IF_ERROR(ReadSampling(json, &request.spec));
  RETURN_IF_ERROR(ReadTargets(json, &request.spec.targets));
  return request;
}

}  // namespace

absl::StatusOr<OpenAiRequest> ParseChat(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ASSIGN_OR_RETURN(OpenAiRequest request, ParseShared(json));
  request.chat = true;
  RETURN_IF_ERROR(Read(json, "add_generation_prompt", &request.spec.add_generation_prompt));
  bool logprobs = false;
  std::optional<int64_t> top_logprobs;
  RETURN_IF_ERROR(Read(json, "logprobs", &logprobs));
  RETURN_IF_ERROR(Read(json, "top_logprobs", &top_logprobs));
  if (top_logprobs.value_or(0) != 0 && !logprobs) return BadField("top_logprobs", "needs logprobs to be true");
  if (logprobs) request.spec.logprobs = top_logprobs.value_or(0);
  ASSIGN_OR_RETURN(std::vector<ChatMessage> messages, ReadMessages(json));
  request.spec.prompts.emplace_back(std::move(messages));
  return request;
}

absl::StatusOr<OpenAiRequest> ParseCompletion(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ASSIGN_OR_RETURN(OpenAiRequest request, ParseShared(json));
  const Json* logprobs = Member(json, "logprobs");
  if (logprobs != nullptr && *logprobs != false) {
    RETURN_IF_ERROR(Read(json, "logprobs", &request.spec.logprobs));
    if (*request.spec.logprobs < 0 || *request.spec.logprobs > kMostLogprobs) {
      return OutOfRange("logprobs", static_cast<double>(*request.spec.logprobs), "0 to 20");
    }
  }
  ASSIGN_OR_RETURN(request.spec.prompts, ReadPrompts(json));
  return request;
}

absl::StatusOr<TokenizeQuery> ParseTokenize(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  TokenizeQuery query;
  RETURN_IF_ERROR(Read(json, "parse_special", &query.parse_special));
  RETURN_IF_ERROR(Read(json, "add_generation_prompt", &query.add_generation_prompt));
  if (Member(json, "messages") != nullptr) {
    ASSIGN_OR_RETURN(query.prompt, ReadMessages(json));
    return query;
  }
  std::string text;
  if (Member(json, "prompt") == nullptr) return BadField("prompt", "is missing");
  RETURN_IF_ERROR(Read(json, "prompt", &text));
  query.prompt = std::move(text);
  return query;
}

absl::StatusOr<std::vector<int32_t>> ParseDetokenize(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  const Json* tokens = Member(json, "tokens");
  if (tokens == nullptr) return BadField("tokens", "is missing");
  return ReadIds(*tokens, "tokens");
}

}  // namespace interlace
