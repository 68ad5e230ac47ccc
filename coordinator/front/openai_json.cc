#include "coordinator/front/openai_json.h"

#include <algorithm>
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
constexpr UnsupportedField kNotInCompletion[] = {{"tool_choice", "[\"none\", \"auto\"]"},
                                                 {"tools", "[[]]"},
                                                 {"chat_template", "[]"},
                                                 {"chat_template_kwargs", "[{}]"},
                                                 {"continue_final_message", "[false]"}};

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
  return absl::OkStatus();
}

// vLLM's field, and what OpenAI's echo of a prompt with logprobs needs.
absl::Status ReadPromptLogprobs(const Json& json, ApiRequest* request) {
  std::optional<int64_t> given;
  RETURN_IF_ERROR(Read(json, "prompt_logprobs", &given));
  if (given && (*given < 0 || *given > kMostLogprobs)) {
    return OutOfRange("prompt_logprobs", static_cast<double>(*given), "0 to 20");
  }
  if (given && request->stream) return BadField("prompt_logprobs", "is not for streams");
  if (given) request->prompt_logprobs = static_cast<int32_t>(*given);
  GenerationSpec& spec = request->spec;
  request->echo_logprobs = spec.echo && request->show_logprobs;
  if (given) spec.prompt_logprobs = given;
  if (request->echo_logprobs) spec.prompt_logprobs = std::max(given.value_or(0), *spec.logprobs);
  return absl::OkStatus();
}

absl::Status ReadSuffix(const Json& json, GenerationSpec* spec) {
  RETURN_IF_ERROR(Read(json, "suffix", &spec->suffix));
  if (!spec->suffix.empty() && spec->echo) return BadField("suffix", "is not for requests with echo");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ApiRequest> ParseChat(absl::string_view body) {
  ASSIGN_OR_RETURN(const Json json, ParseObject(body));
  ASSIGN_OR_RETURN(ApiRequest request, ParseShared(json, body, kNotInChat));
  request.protocol = Protocol::kChat;
  RETURN_IF_ERROR(ReadChatLogprobs(json, &request.spec));
  request.show_logprobs = request.spec.logprobs.has_value();
  RETURN_IF_ERROR(ReadPromptLogprobs(json, &request));
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
  RETURN_IF_ERROR(ReadPromptLogprobs(json, &request));
  RETURN_IF_ERROR(ReadSuffix(json, &request.spec));
  RETURN_IF_ERROR(ReadBestOf(json, &request));
  ASSIGN_OR_RETURN(request.spec.prompts, ReadPrompts(json, "prompt"));
  return request;
}

}  // namespace interlace
