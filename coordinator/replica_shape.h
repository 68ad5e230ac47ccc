// ReplicaShape: what the ranks of a formed replica can hold; pure arithmetic.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kvstore/residency_planner.h"
#include "proto/plan/step_plan.h"

namespace interlace {

struct ReplicaShape {
  int32_t layers = 0;  // of the model
  int32_t block_tokens = 0;
  std::vector<StageCapacity> stages;
  int32_t blocks = 0;  // logical blocks that fit whatever is kept, on the tightest stage
  std::vector<std::string> tiers;

  int32_t BlocksFor(int32_t tokens) const { return (tokens + block_tokens - 1) / block_tokens; }
};

// Requires: one rank for each stage, in order, that agree on model and geometry.
ReplicaShape ShapeOf(absl::Span<const RankInfo> ranks);

// OK if a request of `tokens` can run alone; otherwise FailedPrecondition, saying that it can never run and what to
// raise.
absl::Status CheckCanRun(const ReplicaShape& shape, int32_t tokens, int32_t fixed_keep);

}  // namespace interlace
