// OpenAiAnswer: answers of /v1/chat/completions and /v1/completions.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "coordinator/front/answer.h"

namespace interlace {

// Without a state of its own. A stream ends with [DONE].
class OpenAiAnswer final : public Answer {
 public:
  // `include`: the stream ends with a chunk of the usage; `continuous`: each chunk has it.
  OpenAiAnswer(bool include, bool continuous, ReplyHead head)
      : include_(include), continuous_(continuous), head_(std::move(head)) {}
  Events Begin(size_t choices, const Usage& usage) override;
  Events Add(size_t choice, const OutputDelta& delta, const std::vector<ReplyToken>* logprobs,
             const Usage& usage) override;
  Events Finish(size_t choice, const ReplyChoice& end, const Usage& usage) override;
  Events End(const Usage& usage) override;
  Events Fail(const ApiError& error) override;
  std::string Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) override;

 private:
  const Usage* shown(const Usage& usage) const { return continuous_ ? &usage : nullptr; }

  const bool include_, continuous_;
  const ReplyHead head_;
};

}  // namespace interlace
