// OpenAI's JSON, parsed and printed; pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/engine.h"
#include "coordinator/doors/frontend.h"

namespace interlace {

// A body of /v1/chat/completions or /v1/completions.
struct OpenAiRequest {
  bool chat = false;
  std::string model;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  int32_t n = 1;
  std::vector<ChatMessage> messages;                // chat
  std::vector<std::string> texts;                   // completions: text prompts
  std::vector<std::vector<int32_t>> token_prompts;  // completions: token prompts
  GenerationSpec spec;                              // prompt still empty
};

// InvalidArgument names the field. A field that is understood and cannot be honoured is refused; unknown ones are
// ignored.
absl::StatusOr<OpenAiRequest> ParseChat(absl::string_view body);
absl::StatusOr<OpenAiRequest> ParseCompletion(absl::string_view body);

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
};

// What every chunk and answer of one request carries.
struct OpenAiReply {
  bool chat = false;
  std::string id;  // "chatcmpl-..." or "cmpl-..."
  std::string model;
  int64_t created = 0;
};
struct OpenAiChoice {
  std::string text;
  std::string finish_reason;  // stop, length
};

std::string RoleChunk(const OpenAiReply& reply, int32_t choice);
std::string TextChunk(const OpenAiReply& reply, int32_t choice, absl::string_view text, const Usage* usage);
std::string FinishChunk(const OpenAiReply& reply, int32_t choice, absl::string_view reason, const Usage* usage);
std::string UsageChunk(const OpenAiReply& reply, const Usage& usage);
std::string FullAnswer(const OpenAiReply& reply, const std::vector<OpenAiChoice>& choices, const Usage& usage);
std::string ModelList(absl::string_view model, int32_t context, int64_t created);
std::string ModelEntry(absl::string_view model, int32_t context, int64_t created);
std::string ExplainJson(const Explanation& explanation);

// HTTP status of an error, and the body that OpenAI's clients expect.
int HttpStatusOf(const absl::Status& status);
std::string ErrorBody(const absl::Status& status, int http_status);

// {"tokens": [...], "count": n} and back.
absl::StatusOr<std::string> ParseTokenize(absl::string_view body);
absl::StatusOr<std::vector<int32_t>> ParseDetokenize(absl::string_view body);
std::string TokenizeAnswer(absl::Span<const int32_t> tokens, int32_t context);
std::string DetokenizeAnswer(absl::string_view text);

}  // namespace interlace
