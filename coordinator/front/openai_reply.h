// OpenAI's answers, printed as JSON; pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/engine.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/reply_logprobs.h"

namespace interlace {

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;  // of the prompt tokens
};

// What every chunk and every answer of one request carries.
struct ReplyHead {
  bool chat = false;
  std::string name;  // of the request; the id is "chatcmpl-" or "cmpl-" and the name
  std::string model;
  int64_t created = 0;  // seconds since 1970
};

struct ReplyChoice {
  std::string text;
  std::optional<std::vector<ReplyToken>> logprobs;  // none: not asked for
  FinishReason finish = FinishReason::kStop;
  int32_t completion_tokens = 0;
};

// Chunks of a stream. `usage` may be null: none is shown.
std::string RoleChunk(const ReplyHead& head, size_t choice, const Usage* usage);  // chat: the first of each choice
// `logprobs` may be null: not asked for.
std::string TextChunk(const ReplyHead& head, size_t choice, absl::string_view text, const Usage* usage,
                      const std::vector<ReplyToken>* logprobs = nullptr);
std::string FinishChunk(const ReplyHead& head, size_t choice, FinishReason reason, const Usage* usage);
std::string UsageChunk(const ReplyHead& head, const Usage& usage);
// One server-sent event. The last of a stream has the text [DONE].
std::string SseEvent(absl::string_view text);

std::string WholeAnswer(const ReplyHead& head, absl::Span<const ReplyChoice> choices, const Usage& usage);
std::string ErrorBody(const ApiError& error);

struct ModelCard {
  std::string id;
  int32_t context = 0;
  int64_t created = 0;
};
std::string ModelJson(const ModelCard& card);
std::string ModelListJson(absl::Span<const ModelCard> cards);
std::string HealthJson(const EngineLoad& load, bool ready);
std::string ExplanationJson(const Explanation& explanation);
std::string TokensJson(absl::Span<const int32_t> tokens, int32_t context);
std::string DetokenizedJson(absl::string_view text);
std::string VersionJson(absl::string_view version);

}  // namespace interlace
