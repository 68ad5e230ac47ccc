// TextStream: the tokens of one request as text, for whichever door it came through.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/executor.h"
#include "coordinator/engine.h"
#include "coordinator/front/stop_matcher.h"
#include "coordinator/request.h"
#include "model/text/tokenizer.h"

namespace interlace {

// One token of a stream, or its end.
struct TextEvent {
  int32_t token = -1;             // -1: none came with it
  std::string text;               // complete code points, free of stop strings; may lag behind the tokens
  int32_t completion_tokens = 0;  // so far, this one included
  // With the last event. After a stop string timing.queue is zero: the engine is not waited for.
  std::optional<RequestEnd> end;
};

// Between the scheduler, which calls OnTokens and OnEnd and never waits, and a connection, which takes events at its
// own pace on its own executor. Owned by both; the sink side is the scheduler's thread, Take and `ready` the
// executor's, Close any. The trap: the connection must Close before its executor and its engine die, and not from
// within a Post.
class TextStream final : public TokenSink, public std::enable_shared_from_this<TextStream> {
 public:
  struct Options {
    RequestId id{};
    int32_t prompt_tokens = 0;
    absl::Time arrival;
    std::vector<std::string> stop;
    size_t backlog = 1024;  // tokens; a reader further behind is closed with ResourceExhausted
  };
  // `ready` runs on `executor` after something came; it may run when Take has nothing.
  using Ready = std::function<void()>;
  TextStream(Options options, const Tokenizer& tokenizer, Engine& engine, Clock& clock, Executor& executor,
             Ready ready);

  void OnTokens(absl::Span<const int32_t> tokens) override;
  void OnEnd(const RequestEnd& end) override;

  // The next event; empty if none is there yet or the end was taken.
  std::optional<TextEvent> Take();
  // No event and no `ready` from now on; cancels the request unless it ended. Idempotent.
  void Close();

 private:
  // Where to post, if something must be; Post then follows without the lock, and Close waits for it.
  Executor* BeginPost() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Post(Executor* executor);
  void OnPosted();
  TextEvent TokenEvent(int32_t token);
  TextEvent EndEvent(RequestEnd end);
  RequestEnd StoppedHere();

  const Options options_;
  Engine& engine_;
  Clock& clock_;
  Detokenizer detokenizer_;  // this and the next two: the executor's thread
  StopMatcher matcher_;
  int32_t taken_ = 0;

  absl::Mutex mutex_;
  Executor* executor_;             // protected by mutex_; null once closed
  const Ready ready_;              // executor's thread
  std::deque<int32_t> pending_;    // protected by mutex_
  std::optional<RequestEnd> end_;  // protected by mutex_; the engine's word
  absl::Time first_token_;         // protected by mutex_; infinite future: none yet
  bool posted_ = false;            // protected by mutex_
  int posting_ = 0;                // protected by mutex_; calls of Post under way
  bool overflow_ = false;          // protected by mutex_
  bool cancelled_ = false;         // protected by mutex_; the engine was told
  bool finished_ = false;          // protected by mutex_; the end was taken
};

}  // namespace interlace
