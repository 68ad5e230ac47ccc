#include "coordinator/front/openai_answer.h"

#include "coordinator/front/openai_reply.h"

namespace interlace {

Answer::Events OpenAiAnswer::Begin(size_t choices, const Usage& usage) {
  Events events;
  for (size_t i = 0; head_.protocol == Protocol::kChat && i < choices; ++i) {
    events.push_back(SseEvent(RoleChunk(head_, i, shown(usage))));
  }
  return events;
}

Answer::Events OpenAiAnswer::Add(size_t choice, const OutputDelta& delta, const std::vector<ReplyToken>* logprobs,
                                 const Usage& usage) {
  return {SseEvent(DeltaChunk(head_, choice, delta, shown(usage), logprobs))};
}

Answer::Events OpenAiAnswer::Finish(size_t choice, const ReplyChoice& end, const Usage& usage) {
  return {SseEvent(FinishChunk(head_, choice, end, shown(usage)))};
}

Answer::Events OpenAiAnswer::End(const Usage& usage) {
  Events events;
  if (include_) events.push_back(SseEvent(UsageChunk(head_, usage)));
  events.push_back(SseEvent("[DONE]"));
  return events;
}

Answer::Events OpenAiAnswer::Fail(const ApiError& error) { return {SseEvent(ErrorBody(error)), SseEvent("[DONE]")}; }

std::string OpenAiAnswer::Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) {
  return WholeAnswer(head_, choices, usage);
}

}  // namespace interlace
