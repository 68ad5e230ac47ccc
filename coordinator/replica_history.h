// ReplicaHistory: what a snapshot says of the past.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/snapshot.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// Told of each step, token and end; bounded, and a few additions each. Owned by the Scheduler; thread: the replica's.
class ReplicaHistory {
 public:
  explicit ReplicaHistory(absl::Time began) : began_(began) {}

  void OnTraffic(const LayerTraffic& traffic);
  // A step's results are all there.
  void OnStep(absl::Time now, absl::Duration took, int64_t positions);
  void OnTokens(absl::Time now, int64_t count);  // generated
  void OnEnd(absl::Time now, RequestSnapshot ended);

  // Fills by_layer's traffic, which the snapshot has as many of as the model has layers, and all that is counted.
  void Fill(absl::Time now, ReplicaSnapshot* snapshot) const;

 private:
  struct Traffic {
    int64_t bytes_in = 0, bytes_out = 0, stall_us = 0;
  };
  struct Second {
    int64_t number = -1;  // of seconds since the beginning
    SecondSnapshot counts;
  };
  struct Ended {
    absl::Time at;
    RequestSnapshot request;
  };
  Second& At(absl::Time now);

  const absl::Time began_;
  std::vector<Traffic> traffic_;           // [layer]
  std::array<Second, 64> seconds_;         // by the number's remainder; a cell of another number is stale
  std::array<float, 256> step_seconds_{};  // of the last ones
  int64_t steps_ = 0, tokens_ = 0, positions_ = 0;
  SloTally slo_;
  std::deque<Ended> ended_;  // the latest is last
};

}  // namespace interlace
