// SequenceKv: where the KV blocks of one request are on one rank.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ids.h"
#include "kvstore/block_key.h"
#include "kvstore/kv_arena.h"
#include "kvstore/residency_plan.h"
#include "model/shard_spec.h"

namespace interlace {

// One block of one layer: on the device, in a tier, in both, or (not computed yet) nowhere.
struct BlockPlace {
  ArenaSlot slot;
  bool arriving = false;  // a read into the slot is under way
  bool leaving = false;   // a write from the slot is under way
  int16_t tier = -1;      // where a stored copy is; -1: none
  bool stored() const { return tier >= 0; }
};

// What one layer of the request did since the last result.
struct LayerTraffic {
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  absl::Duration stall;
};

// Owned by LayerWindow; thread: runner. Invariant: blocks that cover positions [0, length) are on the device or stored,
// in every layer of the rank, unless a tier lost them. The trap: a slot with `leaving` belongs to its write until that
// is done.
class SequenceKv {
 public:
  SequenceKv(const ShardSpec& shard, int32_t block_tokens, Generation generation, uint32_t attempt, BlockHash root);

  // Appends the tokens of a step at `start` <= length(); keeps the hash of every block that they fill.
  // Positions from `start` on are forgotten first: the caller has taken their blocks away (TakeFrom).
  void Extend(int32_t start, absl::Span<const int32_t> tokens);
  // The step's tokens are computed: they count from now on.
  void Commit() { length_ = static_cast<int32_t>(tokens_.size()); }

  int32_t length() const { return length_; }                            // positions with KV
  int32_t end() const { return static_cast<int32_t>(tokens_.size()); }  // with the present step's
  absl::Span<const int32_t> tokens() const { return tokens_; }          // of positions [0, end())
  int32_t block_tokens() const { return block_tokens_; }
  int32_t Blocks() const { return (end() + block_tokens_ - 1) / block_tokens_; }
  int32_t SealedBlocks() const { return end() / block_tokens_; }  // full ones: immutable, may leave
  BlockKey KeyOf(LayerId layer, int32_t block) const { return {hashes_[block], generation_, layer}; }
  std::vector<BlockPlace>& Layer(LayerId layer) { return places_[Value(layer) - first_layer_]; }
  LayerTraffic& Traffic(LayerId layer) { return traffic_[Value(layer) - first_layer_]; }

  Generation generation() const { return generation_; }
  uint32_t attempt() const { return attempt_; }
  LayerResidencyPlan residency;

 private:
  const int32_t block_tokens_;
  const int32_t first_layer_;
  const Generation generation_;
  const uint32_t attempt_;
  const BlockHash root_;
  std::vector<int32_t> tokens_;
  std::vector<BlockHash> hashes_;                // of full blocks
  std::vector<std::vector<BlockPlace>> places_;  // [layers of the rank][blocks]
  std::vector<LayerTraffic> traffic_;            // [layers of the rank]
  int32_t length_ = 0;
};

}  // namespace interlace
