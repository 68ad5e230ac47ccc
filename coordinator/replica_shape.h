// ReplicaShape: what the ranks of a formed replica can hold; pure arithmetic.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "kvstore/block_id.h"
#include "kvstore/layer_set.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// Room for KV on one stage: extents (one block x one layer) on the device and on the host.
struct KvRoom {
  int64_t slots = 0;
  int64_t frames = 0;
  friend bool operator==(const KvRoom&, const KvRoom&) = default;
};
// One for each stage, in order.
using KvAmounts = absl::InlinedVector<KvRoom, 4>;

void AddTo(KvAmounts* sum, const KvAmounts& more);
void TakeFrom(KvAmounts* sum, const KvAmounts& less);
// Whether each of `need` is at most `room`.
bool Covers(const KvAmounts& room, const KvAmounts& need);

// One pipeline stage's layers and memory.
struct StageShape {
  LayerSet layers;
  KvRoom room;
};

// Layers that see the last `tokens` positions only.
struct WindowGroup {
  int32_t tokens = 0;
  LayerSet layers;
};

struct ReplicaShape {
  int32_t layers = 0;  // of the model
  LayerSet all;
  LayerSet unbounded;                // layers that see all positions
  std::vector<WindowGroup> windows;  // the others, by their window
  int32_t block_tokens = 0;
  int32_t vocab = 0;
  int32_t step_tokens = 0;  // rows of the largest step that every rank takes
  int64_t slot_bytes = 0;
  std::vector<StageShape> stages;
  int32_t stage_ranks = 1;         // of each stage
  int32_t sequence_ranks = 1;      // of these, that may divide the rows of a step
  bool draft_model = false;        // its one rank has one
  double draft_share = 0;          // RankInfo's
  std::vector<std::string> tiers;  // below the host
  ChainSeed seed;                  // without salt and secret

  size_t ranks() const { return stages.size() * static_cast<size_t>(stage_ranks); }
  int32_t BlocksFor(int32_t tokens) const { return (tokens + block_tokens - 1) / block_tokens; }
  // The first block that a row at `position` sees in the group.
  int32_t FirstSeen(const WindowGroup& group, int32_t position) const {
    const int32_t first = position + 1 - group.tokens;
    return first > 0 ? first / block_tokens : 0;
  }
  // By window group: the first block that a row at `position` sees.
  std::vector<int32_t> SeenFrom(int32_t position) const;
  // The layers in which somebody who sees these groups from there on sees the block.
  LayerSet Seen(absl::Span<const int32_t> seen_from, int32_t block) const;
  // Blocks of the group that one request needs at most at once, while chunks of `chunk_tokens` are computed.
  int32_t MostLive(const WindowGroup& group, int32_t chunk_tokens) const {
    return BlocksFor(group.tokens) + BlocksFor(chunk_tokens) + 2;
  }
  // Adds `blocks` slots for each layer of `device` and as many frames for each of `host`, by stage.
  void AddRoom(int64_t blocks, const LayerSet& device, const LayerSet& host, KvAmounts* to) const;
  // `blocks` slots (frames) for each of `layers`, by stage.
  KvAmounts Slots(int64_t blocks, const LayerSet& layers) const;
  KvAmounts Frames(int64_t blocks, const LayerSet& layers) const;
  KvAmounts Total() const;
};

// "stage 1", or "stage 1, rank 0" where a stage has several ranks. `index` is RankInfo's.
std::string NameOfRank(int32_t index, int32_t stage_ranks);

// Requires: all ranks, in the order of RankInfo::index, that agree on model, geometry and numerics. A stage has the
// room that each of its ranks has: a block takes a slot on all of them.
ReplicaShape ShapeOf(absl::Span<const RankInfo> ranks);

}  // namespace interlace
