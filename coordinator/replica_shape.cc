#include "coordinator/replica_shape.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace interlace {

ReplicaShape ShapeOf(absl::Span<const RankInfo> ranks) {
  ReplicaShape shape;
  shape.layers = ranks[0].layers;
  shape.block_tokens = ranks[0].block_tokens;
  shape.tiers = ranks[0].tiers;
  int64_t blocks = std::numeric_limits<int32_t>::max();
  for (const RankInfo& rank : ranks) {
    shape.stages.push_back({rank.layer_begin, rank.layer_end, rank.arena_slots});
    const int64_t held = rank.layer_end - rank.layer_begin;
    constexpr int64_t kStoredOverhead = 256;  // header, key and index entry of a stored block
    const int64_t below = rank.tier_bytes / (held * (rank.slot_bytes + kStoredOverhead));
    // A block has one slot on the device at most, and one stored copy: what either holds alone can never overflow.
    // Their sum could, since a streamed block takes both while its layer has its turn.
    blocks = std::min(blocks, std::max(rank.arena_slots / held, below));
  }
  shape.blocks = static_cast<int32_t>(blocks);
  return shape;
}

absl::Status CheckCanRun(const ReplicaShape& shape, int32_t tokens, int32_t fixed_keep) {
  const int32_t blocks = shape.BlocksFor(tokens);
  if (blocks > shape.blocks) {
    return absl::FailedPreconditionError(
        absl::StrCat("the request can never run: ", tokens, " tokens take ", blocks, " KV blocks, the replica holds ",
                     shape.blocks, "; raise kv.host_bytes or kv.device_bytes, or ask for fewer tokens"));
  }
  const SequenceDemand alone{.blocks = blocks, .keep = -1, .computes = true};
  const ResidencyChoice choice = PlanResidency({&alone, 1}, shape.layers, shape.stages, fixed_keep);
  if (choice.fits) return absl::OkStatus();
  const int32_t keep = fixed_keep < 0 ? 0 : std::min(fixed_keep, shape.layers);
  for (const StageCapacity& stage : shape.stages) {
    const int32_t needed = SlotsNeeded(alone, keep, shape.layers, stage);
    if (needed <= stage.slots) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("the request can never run: ", tokens, " tokens with ", keep, " of ", shape.layers,
                     " layers kept take ", needed, " slots of the device arena of layers ", stage.layer_begin, "-",
                     stage.layer_end - 1, ", which has ", stage.slots, "; raise kv.device_bytes",
                     keep > 0 ? " or lower kv.keep_layers" : "", ", or ask for fewer tokens"));
  }
  return absl::InternalError("no stage is short, yet the request does not fit");
}

}  // namespace interlace
