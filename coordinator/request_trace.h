// RequestTrace: when a request began to wait, to run and to be set aside.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/explanation.h"

namespace interlace {

enum class RequestPhase : uint8_t {
  kWaiting,   // it has never run
  kFetching,  // blocks of its prefix are on their way from the tiers
  kRunning,   // prompt or stream: the first token tells where one ends and the other begins
  kParked,    // set aside after it ran
};

// The phase of a request whose time goes by `spending`.
constexpr RequestPhase PhaseOf(Spending spending) {
  if (spending == Spending::kQueued) return RequestPhase::kWaiting;
  if (spending == Spending::kFetching) return RequestPhase::kFetching;
  return spending == Spending::kParked ? RequestPhase::kParked : RequestPhase::kRunning;
}

// A request that is parked again and again does not grow it without end: beyond kMost changes the last one alone is
// kept up to date. Owned by its SequenceState; thread: the replica's.
class RequestTrace {
 public:
  static constexpr size_t kMost = 32;
  struct Change {
    RequestPhase phase;
    absl::Time at;
    friend bool operator==(const Change&, const Change&) = default;
  };

  void Enter(RequestPhase phase, absl::Time at) {
    if (DoesNow(phase)) return;
    if (changes_.size() == kMost) changes_.pop_back();
    if (!DoesNow(phase)) changes_.push_back({phase, at});
  }
  const std::vector<Change>& changes() const { return changes_; }

 private:
  bool DoesNow(RequestPhase phase) const { return !changes_.empty() && changes_.back().phase == phase; }

  std::vector<Change> changes_;
};

}  // namespace interlace
