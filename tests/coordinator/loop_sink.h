// What tests of a running ReplicaLoop wait on.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "coordinator/replica_loop.h"

namespace interlace {

// A sink on the loop's thread, awaited on the test's.
class LoopSink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t> tokens) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(end_) << "tokens after the end";
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }
  void OnEnd(const RequestEnd& end) override {
    absl::MutexLock lock(&mutex_);
    EXPECT_FALSE(end_) << "ended twice";
    end_ = end;
  }
  // A request that does not end in time fails the test.
  RequestEnd AwaitEnd() {
    absl::MutexLock lock(&mutex_);
    const auto ended = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return end_.has_value(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&ended), absl::Seconds(20))) {
      return {.status = absl::UnknownError("the request did not end")};
    }
    return *end_;
  }
  std::vector<int32_t> tokens() {
    absl::MutexLock lock(&mutex_);
    return tokens_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<int32_t> tokens_;    // protected by mutex_
  std::optional<RequestEnd> end_;  // protected by mutex_
};

// Turns the loop until `reached` holds of what it published; false: not in time.
inline bool AwaitLoad(ReplicaLoop& loop, const std::function<bool(const EngineLoad&)>& reached) {
  RealClock clock;
  const absl::Time give_up = clock.Now() + absl::Seconds(20);
  while (!reached(loop.Load())) {
    if (clock.Now() > give_up) return false;
    (void)loop.Explain("");  // the loop answers between two rounds
  }
  return true;
}

}  // namespace interlace
