// OpenAI's chunks and answers, printed as JSON; pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/front/answer.h"

namespace interlace {

// Chunks of a stream. `usage` may be null: none is shown.
std::string RoleChunk(const ReplyHead& head, size_t choice, const Usage* usage);  // chat: the first of each choice
// `logprobs` may be null: not asked for.
std::string DeltaChunk(const ReplyHead& head, size_t choice, const OutputDelta& delta, const Usage* usage,
                       const std::vector<ReplyToken>* logprobs = nullptr);
std::string FinishChunk(const ReplyHead& head, size_t choice, const ReplyChoice& end, const Usage* usage);
std::string UsageChunk(const ReplyHead& head, const Usage& usage);
// One server-sent event. The last of a stream has the text [DONE].
std::string SseEvent(absl::string_view text);

std::string WholeAnswer(const ReplyHead& head, absl::Span<const ReplyChoice> choices, const Usage& usage);
std::string ErrorBody(const ApiError& error);

}  // namespace interlace
