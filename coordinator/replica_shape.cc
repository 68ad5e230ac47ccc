#include "coordinator/replica_shape.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace interlace {

void AddTo(KvAmounts* sum, const KvAmounts& more) {
  for (size_t s = 0; s < more.size(); ++s) {
    (*sum)[s].slots += more[s].slots;
    (*sum)[s].frames += more[s].frames;
  }
}

void TakeFrom(KvAmounts* sum, const KvAmounts& less) {
  for (size_t s = 0; s < less.size(); ++s) {
    (*sum)[s].slots -= less[s].slots;
    (*sum)[s].frames -= less[s].frames;
  }
}

bool Covers(const KvAmounts& room, const KvAmounts& need) {
  for (size_t s = 0; s < need.size(); ++s) {
    if (need[s].slots > room[s].slots || need[s].frames > room[s].frames) return false;
  }
  return true;
}

std::vector<int32_t> ReplicaShape::SeenFrom(int32_t position) const {
  std::vector<int32_t> from;
  for (const WindowGroup& group : windows) from.push_back(FirstSeen(group, position));
  return from;
}

LayerSet ReplicaShape::Seen(absl::Span<const int32_t> seen_from, int32_t block) const {
  LayerSet seen = unbounded;
  for (size_t g = 0; g < windows.size(); ++g) {
    if (block >= seen_from[g]) seen |= windows[g].layers;
  }
  return seen;
}

void ReplicaShape::AddRoom(int64_t blocks, const LayerSet& device, const LayerSet& host, KvAmounts* to) const {
  for (size_t s = 0; s < stages.size(); ++s) {
    (*to)[s].slots += blocks * CountCommon(device, stages[s].layers);
    (*to)[s].frames += blocks * CountCommon(host, stages[s].layers);
  }
}

KvAmounts ReplicaShape::Slots(int64_t blocks, const LayerSet& layers) const {
  KvAmounts amounts(stages.size());
  AddRoom(blocks, layers, {}, &amounts);
  return amounts;
}

KvAmounts ReplicaShape::Frames(int64_t blocks, const LayerSet& layers) const {
  KvAmounts amounts(stages.size());
  AddRoom(blocks, {}, layers, &amounts);
  return amounts;
}

KvAmounts ReplicaShape::Total() const {
  KvAmounts amounts;
  for (const StageShape& stage : stages) amounts.push_back(stage.room);
  return amounts;
}

std::string NameOfRank(int32_t index, int32_t stage_ranks) {
  if (stage_ranks == 1) return absl::StrCat("stage ", index);
  return absl::StrCat("stage ", index / stage_ranks, ", rank ", index % stage_ranks);
}

ReplicaShape ShapeOf(absl::Span<const RankInfo> ranks) {
  const RankInfo& first = ranks[0];
  ReplicaShape shape;
  shape.layers = first.layers;
  shape.all = LayerSet::Range(0, first.layers);
  shape.block_tokens = first.block_tokens;
  shape.vocab = first.vocab;
  shape.slot_bytes = first.slot_bytes;
  shape.tiers = first.tiers;
  shape.draft_model = ranks.size() == 1 && !first.draft_model.empty();
  shape.draft_share = first.draft_share;
  shape.stage_ranks = first.stage_ranks();
  shape.sequence_ranks = first.sequence_ranks;
  shape.step_tokens = first.step_tokens;
  for (int32_t l = 0; l < first.layers; ++l) {
    if (first.windows[l] == 0) {
      shape.unbounded.Add(LayerId{l});
      continue;
    }
    auto group = std::find_if(shape.windows.begin(), shape.windows.end(),
                              [&](const WindowGroup& g) { return g.tokens == first.windows[l]; });
    if (group == shape.windows.end()) group = shape.windows.insert(group, WindowGroup{first.windows[l], {}});
    group->layers.Add(LayerId{l});
  }
  for (const RankInfo& rank : ranks) {
    shape.step_tokens = std::min(shape.step_tokens, rank.step_tokens);
    if (rank.stage_rank() == 0) {
      shape.stages.push_back(
          {LayerSet::Range(rank.layer_begin, rank.layer_end), {rank.device_slots, rank.host_frames}});
      continue;
    }
    KvRoom& room = shape.stages.back().room;
    room.slots = std::min<int64_t>(room.slots, rank.device_slots);
    room.frames = std::min<int64_t>(room.frames, rank.host_frames);
  }
  shape.seed = {.model_digest = first.model_digest,
                .numerics = first.numerics,
                .dtype = first.dtype,
                .block_tokens = first.block_tokens,
                .kv_heads = first.kv_heads,
                .head_dim = first.head_dim};
  return shape;
}

}  // namespace interlace
