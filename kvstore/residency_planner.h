// The pure function that decides how many layers of each request stay on the device.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/ids.h"
#include "kvstore/residency_plan.h"

namespace interlace {

// One pipeline stage's device arena.
struct StageCapacity {
  int32_t layer_begin = 0;
  int32_t layer_end = 0;
  int32_t slots = 0;
};

// What one request asks of the arenas.
struct SequenceDemand {
  int32_t blocks = 0;     // logical blocks once the planned tokens are computed
  int32_t keep = -1;      // x in force; -1: not on the device yet
  bool computes = false;  // runs in the plan at hand or in one in flight: streamed layers pass through the device
};

// Slots that the request takes on a stage with x = keep: kept layers hold all blocks, streamed ones their unfinished
// last block; while it computes, one streamed layer at a time holds all blocks too.
int32_t SlotsNeeded(const SequenceDemand& demand, int32_t keep, int32_t layers, const StageCapacity& stage);

// Slots needed at x = 0 by a request of `blocks` blocks that computes alone, on the stage that is tightest for it,
// minus that stage's slots; positive: it can never run ("arena too small").
int32_t ShortfallAlone(int32_t blocks, int32_t layers, absl::Span<const StageCapacity> stages);

struct ResidencyChoice {
  bool fits = false;          // false: no x >= 0 of the last demand fits beside the others
  std::vector<int32_t> keep;  // x for each demand, in order
};

// fixed_keep >= 0: every request gets min(fixed_keep, layers), and fits says whether that has room. fixed_keep == -1
// (auto): requests on the device keep their x; the last demand, if new, gets the largest x that fits in what is left;
// when the demands do not fit, x is lowered one layer at a time, largest holder first, later demand first on a tie.
// Same input, same answer.
ResidencyChoice PlanResidency(absl::Span<const SequenceDemand> demands, int32_t layers,
                              absl::Span<const StageCapacity> stages, int32_t fixed_keep);

}  // namespace interlace
