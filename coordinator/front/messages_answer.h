// MessagesAnswer: answers of Anthropic's /v1/messages.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/front/answer.h"

namespace interlace {

// One choice, as a list of blocks: thought, text, calls. In a stream one block is open at a time.
class MessagesAnswer final : public Answer {
 public:
  explicit MessagesAnswer(ReplyHead head) : head_(std::move(head)) {}
  Events Begin(size_t choices, const Usage& usage) override;
  Events Add(size_t choice, const OutputDelta& delta, const std::vector<ReplyToken>* logprobs,
             const Usage& usage) override;
  Events Finish(size_t choice, const ReplyChoice& end, const Usage& usage) override;
  Events End(const Usage& usage) override;
  Events Fail(const ApiError& error) override;
  std::string Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) override;

 private:
  enum class Block { kNone, kThought, kText, kCall };
  // Closes the open block and opens one of this kind, unless such a one is open. Of a call its index counts too.
  void Open(Block block, const CallDelta* call, Events* events);
  void Close(Events* events);

  const ReplyHead head_;
  Block open_ = Block::kNone;
  size_t call_ = 0;    // index of the open call
  size_t blocks_ = 0;  // closed ones
  ReplyChoice end_;
};

// {"type": "error", ...}
std::string MessagesErrorBody(const ApiError& error);

}  // namespace interlace
