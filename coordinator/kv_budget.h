// KvBudget: the one account of KV memory of a replica.
#pragma once

#include <algorithm>
#include <map>
#include <utility>

#include "common/ids.h"
#include "coordinator/replica_shape.h"

namespace interlace {

// Slots and frames by stage, counted in the order of plans: what a plan frees is free for what follows it. Sealed
// blocks, tails of sequences and rings are charged here and nowhere else. A ring is the device room through which the
// streamed layers of one plan pass; plans run one after another, so the largest of those in flight counts, or the
// floor where that is larger: what the longest streaming sequence needs for itself, so that each can always run.
// Owned by KvPlacement; thread: the replica's.
class KvBudget {
 public:
  explicit KvBudget(KvAmounts total) : total_(std::move(total)), taken_(total_.size()), ring_(total_.size()) {
    floor_ = ring_;
  }

  // All or nothing.
  bool Try(const KvAmounts& more) {
    for (size_t s = 0; s < more.size(); ++s) {
      if (more[s].slots > total_[s].slots - taken_[s].slots - RingOf(s)) return false;
      if (more[s].frames > total_[s].frames - taken_[s].frames) return false;
    }
    AddTo(&taken_, more);
    return true;
  }
  void Give(const KvAmounts& less) { TakeFrom(&taken_, less); }

  // The ring of a plan, which is being made or in flight, grows to `slots`; false, and as before, if there is no room.
  bool TryRing(PlanId plan, const KvAmounts& slots);
  void EndRing(PlanId plan);
  void SetFloor(KvAmounts floor) { floor_ = std::move(floor); }

  KvAmounts Free() const;
  const KvAmounts& total() const { return total_; }
  const KvAmounts& taken() const { return taken_; }  // without rings
  // The device room that is set aside for rings on a stage.
  int64_t RingOf(size_t stage) const { return std::max(ring_[stage].slots, floor_[stage].slots); }

 private:
  const KvAmounts total_;
  KvAmounts taken_;
  KvAmounts ring_;  // the largest of rings_, by stage
  KvAmounts floor_;
  std::map<PlanId, KvAmounts> rings_;
};

}  // namespace interlace
