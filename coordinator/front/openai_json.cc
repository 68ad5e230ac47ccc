#include "coordinator/front/openai_json.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/chat_history.h"
#include "coordinator/front/constraint_fields.h"
#include "coordinator/front/json_fields.h"
#include "coordinator/front/request_fields.h"

namespace interlace {
namespace {

constexpr int64_t kUsualTokens = 16;  // of a completion whose request names no max_tokens; OpenAI's and vLLM's default

constexpr UnsupportedField kNotInChat[] = {
    {"add_special_tokens", "[false]"}, {"best_of", "[1]"}, {"echo", "[false]"}, {"suffix", "[\"\"]"}};
constexpr UnsupportedField kNotInCompletion[] = {
    {"suffix", "[\"\"]"},    {"tool_choice", "[\"none\", \"auto\"]"}, {"tools", "[[]]"},
    {"chat_template", "[]"}, {"chat_template_kwargs", "[{}]"},        {"continue_final_message", "[false]"}};

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

absl::StatusOr<ApiRequest> ParseShared(const Json& json, absl::string_view body,
                                       absl::Span<const UnsupportedField> unsupported) {
  ApiRequest request;
  RETURN_IF_ERROR(RefuseUnbuilt(json));
  RETURN_IF_ERROR(RefuseUnsupported(json, unsupported));
  RETURN_IF_ERROR(ReadConstraint(json, body, &request.spec));
  RETURN_IF_ERROR(ReadIdentity(json, &request.spec));
  RETURN_IF_ERROR(Read(json, "stream", &request.stream));
  if (const Json* options = Member(json, "stream_options")) {
    if (!options->is_object()) return BadField("stream_options", "must be an object");
    RETURN_IF_ERROR(Read(*options, "include_usage", &request.include_usage));
    RETURN_IF_ERROR(Read(*options, "continuous_usage_stats", &request.continuous_usage));
  }
  RETURN_IF_ERROR(ReadSampling(json, &request.spec));
  return request;
}

// OpenAI's two fields of a chat.
absl::Status ReadChatLogprobs(const Json& json, GenerationSpec* spec) {
  bool logprobs = false;
  std::optional<int64_t> top_logprobs;
  RETURN_IF_ERROR(Read(json, "logprobs", &logprobs));
  RETURN_IF_ERROR(Read(json, "top_logprobs", &top_logprobs));
  if (top_logprobs.value_or(0) != 0 && !logprobs) return BadField("top_logprobs", "needs logprobs to be true");
  if (logprobs) spec->logprobs = top_logprobs.value_or(0);
  return absl::OkStatus();
}

// That many choices are made, and the n with the largest sums of logprobs answered.
absl::Status ReadBestOf(const Json& json, ApiRequest* request) {
  std::optional<int64_t> best_of;
  RETURN_IF_ERROR(Read(json, "best_of", &best_of));
  const int32_t n = request->spec.n;
  if (!best_of || *best_of == n) return absl::OkStatus();
  if (*best_of < n || *best_of > kMostOfAPrompt) {
    return OutOfRange("best_of", static_cast<double>(*best_of), absl::StrCat("n=", n, " to ", kMostOfAPrompt));
  }
  if (request->stream) return BadField("best_of", "above n is not for streams: which is best is known at the end");
  request->keep = n;
  request->spec.n = static_cast<int32_t>(*best_of);
  if (!request->spec.logprobs) request->spec.logprobs = 0;
  return absl::OkStatus();
}

absl::Status ReadCompletionLogprobs(const Json& json, GenerationSpec* spec) {
  const Json* logprobs = Member(json, "logprobs");
  if (logprobs == nullptr || *logprobs == false) return absl::OkStatus();
  RETURN_IF_ERROR(Read(json, "logprobs", &spec->logprobs));
  if (*spec->logprobs < 0 || *spec->logprobs > kMostLogprobs) {
    return OutOfRange("logprobs", static_cast<double>(*spec->logprobs), "0 to 20");
  }
  if (spec->echo) return BadField("echo", "together with logprobs is not supported here: prompts are not scored");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ApiRequest> ParseChat(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ASSIGN_OR_RETURN(ApiRequest request, ParseShared(json, body, kNotInChat));
  request.protocol = Protocol::kChat;
  RETURN_IF_ERROR(ReadChatLogprobs(json, &request.spec));
  request.show_logprobs = request.spec.logprobs.has_value();
  RETURN_IF_ERROR(Read(json, "include_reasoning", &request.show_thought));
  RETURN_IF_ERROR(Read(json, "parallel_tool_calls", &request.spec.parallel_tool_calls));
  RETURN_IF_ERROR(Read(json, "chat_template", &request.spec.form.chat_template));
  ASSIGN_OR_RETURN(ChatHistory history, ReadChatHistory(json, body));
  request.spec.tools = std::move(history.tools);
  request.spec.forced_call = std::move(history.forced_call);
  request.spec.prompts.emplace_back(std::move(history.input));
  return request;
}

absl::StatusOr<ApiRequest> ParseCompletion(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ASSIGN_OR_RETURN(ApiRequest request, ParseShared(json, body, kNotInCompletion));
  request.protocol = Protocol::kCompletion;
  request.spec.usual_max_tokens = kUsualTokens;
  request.spec.form.parse_special = true;  // as transformers reads a text; parse_special=false keeps it text
  RETURN_IF_ERROR(Read(json, "parse_special", &request.spec.form.parse_special));
  RETURN_IF_ERROR(Read(json, "add_special_tokens", &request.spec.form.add_special_tokens));
  RETURN_IF_ERROR(Read(json, "echo", &request.spec.echo));
  RETURN_IF_ERROR(ReadCompletionLogprobs(json, &request.spec));
  request.show_logprobs = request.spec.logprobs.has_value();
  RETURN_IF_ERROR(ReadBestOf(json, &request));
  ASSIGN_OR_RETURN(request.spec.prompts, ReadPrompts(json));
  return request;
}

}  // namespace interlace
