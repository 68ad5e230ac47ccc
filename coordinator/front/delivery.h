// Delivery: the answer of one request under way, as bytes for its connection.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/front/answer.h"
#include "coordinator/front/generation.h"
#include "coordinator/front/output_parser.h"

namespace interlace {

// Takes what the choices of a run give, one event at a time, and makes of it the events of a stream, or gathers it for
// an answer in one piece. Knows nothing of sockets. Owned by the connection; its executor's thread.
class Delivery {
 public:
  // All three outlive it.
  Delivery(const ApiRequest& request, GenerationRun& run, Intake& intake);

  bool stream() const { return request_.stream; }
  size_t choices() const { return choices_.size(); }
  bool open() const { return open_ > 0 && failure_.ok(); }  // something is to come
  bool begun() const { return begun_; }                     // a stream's events are under way: no HTTP status any more
  const absl::Status& failure() const { return failure_; }
  const Usage& usage() const { return usage_; }
  // Of an answer that a response cache keeps, what its header x-interlace-cache says; empty: it was made anew. Known
  // once an event was taken.
  std::string CacheLine() const;

  // Takes one event of a choice, if there is one. Gives the events of a stream that this makes, those of its begin
  // before them; none if it failed before it began, or if there is nothing to show yet.
  std::optional<Answer::Events> Take(size_t choice);
  // A stream's first events, before any choice has given something.
  Answer::Events Begin();
  // The server stops: what is not complete ends as a failure.
  void Fail(absl::Status why) { failure_ = std::move(why); }
  // A stream's last events. Requires: begun().
  Answer::Events End();
  // The whole answer, once. Requires: a request without a stream, and no failure.
  std::string Whole();

 private:
  OutputDelta Read(size_t choice, const TextEvent& event);
  // Before the first event of a choice: what was asked of its prompt.
  void TakePrompt(size_t choice, Answer::Events* events);
  void Add(size_t choice, OutputDelta delta, const TextEvent& event, Answer::Events* events);
  void NoteEnd(size_t choice, const TextEvent& event);
  bool logprobs() const { return request_.show_logprobs; }

  const ApiRequest& request_;
  GenerationRun& run_;
  Intake& intake_;
  const std::unique_ptr<Answer> answer_;
  std::vector<OutputParser> parsers_;  // one for each choice
  std::vector<ReplyChoice> choices_;   // of a stream: without what was shown of them, but for the calls' names
  Usage usage_;
  std::vector<bool> prompted_;  // choices whose TakePrompt is done
  size_t open_;                 // choices that have not ended
  bool begun_ = false;
  absl::Status failure_;
};

}  // namespace interlace
