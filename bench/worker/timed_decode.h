// What benchmarks of decode share: streams on a replica in this process, and how fast they ran.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "cli/in_process_replica.h"
#include "common/clock.h"
#include "coordinator/request.h"

namespace interlace {

// A stream's tokens, when the first and the last came, and its end. Thread: OnTokens and OnEnd on the scheduler's.
class TimedSink final : public TokenSink {
 public:
  using Now = std::function<absl::Time()>;
  explicit TimedSink(Now now) : now_(std::move(now)) {}
  void OnTokens(absl::Span<const int32_t> tokens) override;
  void OnEnd(const RequestEnd& end) override;
  void Wait();
  // Behind Wait.
  absl::Time first() const { return first_; }
  absl::Time last() const { return last_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const RequestEnd& end() const { return *end_; }

 private:
  const Now now_;
  absl::Mutex mutex_;
  absl::Time first_, last_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<RequestEnd> end_;
};

// Prompts out of one text, decoded by a replica. Owned by the benchmark; thread: its.
class TimedDecode {
 public:
  using Make = std::function<void(const int32_t* words, Request* request)>;
  // `now`: the clock by which speeds are taken.
  TimedDecode(std::string text, int32_t tokens, TimedSink::Now now)
      : text_(std::move(text)), tokens_(tokens), now_(std::move(now)) {}

  // Decodes `streams` at once; tokens a second behind their first ones. Each round begins elsewhere in the text, which
  // has 2,500 words at least behind what `make` is shown to fill in the prompt and whatever else is wanted.
  double Run(InProcessReplica& replica, int round, int32_t streams, const Make& make);
  // The streams of the last Run.
  const std::vector<std::shared_ptr<TimedSink>>& sinks() const { return sinks_; }
  Clock& clock() { return clock_; }

 private:
  const std::string text_;
  const int32_t tokens_;
  const TimedSink::Now now_;
  RealClock clock_;
  std::vector<int32_t> words_;
  std::vector<std::shared_ptr<TimedSink>> sinks_;
  uint64_t requests_ = 0;
};

// MODEL TEXT [ROUNDS [TOKENS]] of a benchmark's command line.
struct DecodeArguments {
  std::string model, text, draft_model;
  int rounds = 5, tokens = 96;
};
// False: stderr says what is wrong with them.
bool ReadArguments(const char* name, int argc, char** argv, DecodeArguments* out);

}  // namespace interlace
