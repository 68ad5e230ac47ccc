// ResponsesAnswer: answers of OpenAI's /v1/responses.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "coordinator/front/answer.h"

namespace interlace {

// One choice, as a list of items: thought, text, calls. In a stream one item is open at a time, and each event has a
// number.
class ResponsesAnswer final : public Answer {
 public:
  explicit ResponsesAnswer(ReplyHead head) : head_(std::move(head)) {}
  Events Begin(size_t choices, const Usage& usage) override;
  Events Add(size_t choice, const OutputDelta& delta, const std::vector<ReplyToken>* logprobs,
             const Usage& usage) override;
  Events Finish(size_t choice, const ReplyChoice& end, const Usage& usage) override;
  Events End(const Usage& usage) override;
  Events Fail(const ApiError& error) override;
  std::string Whole(absl::Span<const ReplyChoice> choices, const Usage& usage) override;

  // One of the list; what it holds is text, or the arguments of a call.
  enum class Kind { kThought, kText, kCall };
  struct Item {
    Kind kind;
    size_t call;       // of a kCall: its index
    std::string name;  // of a kCall
    std::string content;
    bool cut = false;  // it ends before it is whole
  };

 private:
  // Closes the open item and opens another, unless the open one is the same.
  Item& Open(Kind kind, const CallDelta* call, Events* events);
  void Close(Events* events);
  void Put(Kind kind, const CallDelta* call, const std::string& more, Events* events);

  const ReplyHead head_;
  std::vector<Item> items_;
  bool open_ = false;  // the last one
  int64_t events_ = 0;
  ReplyChoice end_;  // how the answer ended, but for its items
};

}  // namespace interlace
