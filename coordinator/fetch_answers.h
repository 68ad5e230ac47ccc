// FetchAnswers: what the ranks of one stage say of a fetch, made one answer.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// A block lies where all ranks of a stage have their heads of it. Each rank answers each fetch once, in the order in
// which they were asked. Owned by the Scheduler; thread: the replica's.
class FetchAnswers {
 public:
  struct Joint {
    FetchAnswer answer;
    LayerSet uneven;  // of `failed`: layers in which it has arrived on some of the ranks
  };
  explicit FetchAnswers(int32_t stage_ranks) : stage_ranks_(static_cast<size_t>(stage_ranks)) {}

  // The answer of them all, once the last of the stage's ranks has given its own.
  std::optional<Joint> Take(StageId stage, int32_t stage_rank, const FetchAnswer& answer);

 private:
  using Heard = std::vector<std::deque<FetchAnswer>>;  // by rank of the stage
  const size_t stage_ranks_;
  absl::flat_hash_map<std::pair<BlockId, StageId>, Heard> heard_;
};

}  // namespace interlace
