#include "kvstore/residency_planner.h"

#include <algorithm>
#include <limits>

namespace interlace {
namespace {

int64_t Slots(const SequenceDemand& demand, int32_t keep, int32_t layers, const StageCapacity& stage) {
  const int64_t held = stage.layer_end - stage.layer_begin;
  const int64_t kept = LayerResidencyPlan{layers, keep}.KeptIn(stage.layer_begin, stage.layer_end);
  const int64_t streamed = held - kept;
  int64_t slots = kept * demand.blocks + streamed * std::min(1, demand.blocks);
  if (demand.computes && streamed > 0) slots += demand.blocks;
  return slots;
}

// What a choice of x takes on every stage, kept up to date as x changes.
class StageUse {
 public:
  StageUse(absl::Span<const SequenceDemand> demands, int32_t layers, absl::Span<const StageCapacity> stages,
           std::vector<int32_t> keep)
      : demands_(demands), layers_(layers), stages_(stages), keep_(std::move(keep)), used_(stages.size()) {
    for (size_t d = 0; d < demands_.size(); ++d) Add(d, +1);
  }

  bool Fits() const {
    for (size_t s = 0; s < stages_.size(); ++s) {
      if (Overfull(s)) return false;
    }
    return true;
  }
  void Set(size_t demand, int32_t keep) {
    Add(demand, -1);
    keep_[demand] = keep;
    Add(demand, +1);
  }
  // The demand with x > 0 that holds most slots on the stages that are overfull, the later one on a tie; -1: none.
  int LargestHolder() const {
    int largest = -1;
    int64_t most = -1;
    for (size_t d = 0; d < demands_.size(); ++d) {
      if (keep_[d] == 0) continue;
      int64_t holds = 0;
      for (size_t s = 0; s < stages_.size(); ++s) {
        if (Overfull(s)) holds += Slots(demands_[d], keep_[d], layers_, stages_[s]);
      }
      if (holds >= most) {
        most = holds;
        largest = static_cast<int>(d);
      }
    }
    return largest;
  }
  const std::vector<int32_t>& keep() const { return keep_; }

 private:
  bool Overfull(size_t stage) const { return used_[stage] > stages_[stage].slots; }
  void Add(size_t demand, int sign) {
    for (size_t s = 0; s < stages_.size(); ++s) {
      used_[s] += sign * Slots(demands_[demand], keep_[demand], layers_, stages_[s]);
    }
  }

  const absl::Span<const SequenceDemand> demands_;
  const int32_t layers_;
  const absl::Span<const StageCapacity> stages_;
  std::vector<int32_t> keep_;  // x of each demand
  std::vector<int64_t> used_;  // slots of each stage
};

}  // namespace

int32_t SlotsNeeded(const SequenceDemand& demand, int32_t keep, int32_t layers, const StageCapacity& stage) {
  return static_cast<int32_t>(
      std::min<int64_t>(Slots(demand, keep, layers, stage), std::numeric_limits<int32_t>::max()));
}

int32_t ShortfallAlone(int32_t blocks, int32_t layers, absl::Span<const StageCapacity> stages) {
  const SequenceDemand alone{.blocks = blocks, .keep = 0, .computes = true};
  int64_t shortfall = std::numeric_limits<int32_t>::min();
  for (const StageCapacity& stage : stages) {
    shortfall = std::max(shortfall, int64_t{SlotsNeeded(alone, 0, layers, stage)} - stage.slots);
  }
  return stages.empty() ? 0 : static_cast<int32_t>(shortfall);
}

ResidencyChoice PlanResidency(absl::Span<const SequenceDemand> demands, int32_t layers,
                              absl::Span<const StageCapacity> stages, int32_t fixed_keep) {
  std::vector<int32_t> in_force;
  for (const SequenceDemand& demand : demands) {
    in_force.push_back(fixed_keep >= 0 ? std::min(fixed_keep, layers) : std::clamp(demand.keep, 0, layers));
  }
  StageUse use(demands, layers, stages, in_force);
  if (fixed_keep >= 0) return {use.Fits(), std::move(in_force)};

  while (!use.Fits()) {
    const int holder = use.LargestHolder();
    if (holder < 0) return {false, std::move(in_force)};
    use.Set(holder, use.keep()[holder] - 1);
  }
  for (size_t d = 0; d < demands.size(); ++d) {
    if (demands[d].keep >= 0) continue;
    // On a stage, a smaller x may keep one layer more, so every x is tried rather than bisected.
    for (int32_t keep = layers; keep >= 0; --keep) {
      use.Set(d, keep);
      if (use.Fits()) break;
    }
  }
  return {true, use.keep()};
}

}  // namespace interlace
