// TextStream: the tokens of one request as text, for whichever door it came through.
#pragma once

#include <algorithm>
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
#include "text/tokenizer.h"

namespace interlace {

// Of whole UTF-8.
int64_t CodePoints(absl::string_view text);

// A token of which all text that comes before its end has been shown.
struct ShownToken {
  int32_t token = -1;
  int64_t offset = 0;              // code points of the stream's text before its own
  std::vector<TokenScore> scores;  // its own, then those of the most likely; empty if the request asks for none
};

// What one token of a stream adds, or its end.
struct TextEvent {
  std::string text;                    // complete code points, free of stop strings; may lag behind the tokens
  std::vector<ShownToken> shown;       // those of withheld text come when it does; those of a stop string never
  int32_t completion_tokens = 0;       // so far, those not shown included; at the end the token that ended it too
  std::string stop;                    // with the last event: the stop string that ended the text; empty: none did
  std::optional<ShownToken> ended_by;  // with it: the token that ended the answer, if it has scores; it has no text
  // With the last event. After a stop string timing.queue is zero: the engine is not waited for.
  std::optional<RequestEnd> end;
};

// Between the scheduler, which calls OnTokens and OnEnd and never waits, and a connection, which takes events at its
// own pace on its own executor. Owned by both; the sink side is the scheduler's thread, Take and `ready` the
// executor's, Close any. The trap: the connection must Close before its executor and its engine die, and not from
// within a Post.
class TextStream final : public TokenSink, public std::enable_shared_from_this<TextStream> {
 public:
  // What the client has of the answer already: neither comes again.
  struct Had {
    std::vector<int32_t> tokens;
    size_t text_bytes = 0;
  };
  struct Options {
    RequestId id{};
    int32_t prompt_tokens = 0;
    absl::Time arrival;
    std::vector<std::string> stop;
    size_t backlog = 1024;       // tokens; a reader further behind, unless they came at once, is closed with
                                 // ResourceExhausted
    int32_t min_tokens = 0;      // no stop string ends in the text of that many
    bool include_stop = false;   // the stop string that is met is shown
    std::vector<int32_t> shown;  // control tokens whose text is shown
    bool show_all = false;       // that of all of them
    Had had = {};
    FidelityMode fidelity = FidelityMode::kExact;
  };
  // `ready` runs on `executor` after something came; it may run when Take has nothing.
  using Ready = std::function<void()>;
  TextStream(Options options, const Tokenizer& tokenizer, Engine& engine, Clock& clock, Executor& executor,
             Ready ready);

  void OnCached(int32_t tokens) override;
  void OnFidelity(const FidelityReport& so_far) override;
  void OnCacheHit(const CacheHit& hit) override;
  void OnTokens(absl::Span<const int32_t> tokens) override;
  void OnScoredToken(int32_t token, absl::Span<const TokenScore> scores) override;
  void OnPromptScores(const PromptScores& scores) override;
  void OnPooled(absl::Span<const float> mean) override;
  void OnEnd(const RequestEnd& end) override;

  // The next event; empty if none is there yet or the end was taken.
  std::optional<TextEvent> Take();
  // What has come since the last call; all of it is there when Take gives the first event of a request that does well.
  std::vector<PromptScores> TakePromptScores();
  // Of a request that was pooled and has ended well; once.
  std::vector<float> TakePooled();
  // Of a request that a response cache serves; known before Take gives its first event.
  std::optional<CacheHit> cache_hit();
  // No event and no `ready` from now on; cancels the request unless it ended. Idempotent.
  void Close();
  // Tokens that Take has given. The executor's thread.
  int32_t taken() const { return std::max(0, taken_ - static_cast<int32_t>(options_.had.tokens.size())); }

 private:
  struct Pending {
    int32_t token;
    std::vector<TokenScore> scores;
  };
  struct Unshown {
    ShownToken token;
    size_t begin, end;  // bytes of the stream's text that are its own
  };

  void Append(std::vector<Pending> tokens);
  // Where to post, if something must be; Post then follows without the lock, and Close waits for it.
  Executor* BeginPost() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Post(Executor* executor);
  void OnPosted();
  // Through the text of the tokens that the client has, so that what was withheld of it is withheld again. With an
  // event if a stop string ends it there.
  std::optional<TextEvent> Replay();
  // The event's text without what the client has.
  TextEvent Unseen(TextEvent event);
  TextEvent TokenEvent(Pending pending);
  TextEvent EndEvent(RequestEnd end);
  RequestEnd StoppedHere();
  // Moves to the event the tokens that its text lets out. `stopped`: no more text comes.
  void Show(bool stopped, TextEvent* event);

  const Options options_;
  Engine& engine_;
  Clock& clock_;
  Detokenizer detokenizer_;  // from here to the mutex: the executor's thread
  StopMatcher matcher_;
  int32_t taken_ = 0;  // tokens of the answer
  Had had_;            // what of it was not met yet
  std::string owed_;   // text of its tokens that the client lacks
  std::deque<Unshown> unshown_;
  size_t bytes_made_ = 0;   // of text, withheld included
  size_t bytes_shown_ = 0;  // of text
  int64_t made_ = 0;        // code points of text, withheld included

  absl::Mutex mutex_;
  Executor* executor_;                       // protected by mutex_; null once closed
  const Ready ready_;                        // executor's thread
  std::deque<Pending> pending_;              // protected by mutex_
  std::vector<PromptScores> prompt_scores_;  // protected by mutex_
  std::vector<float> pooled_;                // protected by mutex_
  std::optional<RequestEnd> end_;            // protected by mutex_; the engine's word
  absl::Time first_token_;                   // protected by mutex_; infinite future: none yet
  int32_t cached_tokens_ = 0;                // protected by mutex_; what OnCached said
  FidelityReport fidelity_;                  // protected by mutex_; what OnFidelity said last
  std::optional<CacheHit> cache_hit_;        // protected by mutex_
  bool posted_ = false;                      // protected by mutex_
  int posting_ = 0;                          // protected by mutex_; calls of Post under way
  bool overflow_ = false;                    // protected by mutex_
  bool cancelled_ = false;                   // protected by mutex_; the engine was told
  bool finished_ = false;                    // protected by mutex_; the end was taken
};

}  // namespace interlace
