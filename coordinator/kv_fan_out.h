// KvFanOut: one KvObserver that passes on to several.
#pragma once

#include <utility>
#include <vector>

#include "coordinator/kv_observer.h"

namespace interlace {

// Owned by whoever makes the scheduler's options; thread: the replica's. Those it passes on to outlive it, and are told
// in their order.
class KvFanOut final : public KvObserver {
 public:
  explicit KvFanOut(std::vector<KvObserver*> to) : to_(std::move(to)) {}
  void OnSealed(const KvBlockSeen& block) override {
    for (KvObserver* to : to_) to->OnSealed(block);
  }
  void OnStored(const BlockId& id, KvMedium medium) override {
    for (KvObserver* to : to_) to->OnStored(id, medium);
  }
  void OnRemoved(const BlockId& id, KvMedium medium) override {
    for (KvObserver* to : to_) to->OnRemoved(id, medium);
  }
  void OnErased(const BlockId& id) override {
    for (KvObserver* to : to_) to->OnErased(id);
  }
  void OnCleared() override {
    for (KvObserver* to : to_) to->OnCleared();
  }

 private:
  const std::vector<KvObserver*> to_;
};

}  // namespace interlace
