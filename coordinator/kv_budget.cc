#include "coordinator/kv_budget.h"

#include <algorithm>

namespace interlace {

KvAmounts KvBudget::Free() const {
  KvAmounts free = total_;
  TakeFrom(&free, taken_);
  for (size_t s = 0; s < free.size(); ++s) free[s].slots -= RingOf(s);
  return free;
}

bool KvBudget::TryRing(PlanId plan, const KvAmounts& slots) {
  for (size_t s = 0; s < slots.size(); ++s) {
    if (slots[s].slots > RingOf(s) && taken_[s].slots + slots[s].slots > total_[s].slots) return false;
  }
  rings_[plan] = slots;
  for (size_t s = 0; s < slots.size(); ++s) ring_[s].slots = std::max(ring_[s].slots, slots[s].slots);
  return true;
}

void KvBudget::EndRing(PlanId plan) {
  if (rings_.erase(plan) == 0) return;
  ring_.assign(total_.size(), {});
  for (const auto& [other, ring] : rings_) {
    for (size_t s = 0; s < ring.size(); ++s) ring_[s].slots = std::max(ring_[s].slots, ring[s].slots);
  }
}

}  // namespace interlace
