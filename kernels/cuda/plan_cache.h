// PlanCache: the plans of the shapes used last.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <utility>

namespace interlace {

// At most `most` plans; the one that was not asked for longest makes room for another. Owned by the CublasGemm; thread:
// its. The trap: Put destroys a plan, so a pointer that Find gave is good until the next Put.
template <typename Key, typename Plan>
class PlanCache {
 public:
  explicit PlanCache(size_t most) : most_(most) {}

  // Null if there is none.
  Plan* Find(const Key& key) {
    const auto it = by_key_.find(key);
    if (it == by_key_.end()) return nullptr;
    used_.splice(used_.begin(), used_, it->second);
    return it->second->second.get();
  }
  // Requires: Find(key) is null.
  Plan* Put(const Key& key, std::unique_ptr<Plan> plan) {
    if (used_.size() >= most_) {
      by_key_.erase(used_.back().first);
      used_.pop_back();
    }
    used_.emplace_front(key, std::move(plan));
    by_key_[key] = used_.begin();
    return used_.front().second.get();
  }
  void Clear() {
    by_key_.clear();
    used_.clear();
  }
  size_t size() const { return used_.size(); }

 private:
  using Used = std::list<std::pair<Key, std::unique_ptr<Plan>>>;
  const size_t most_;
  Used used_;  // the one used last comes first
  std::map<Key, typename Used::iterator> by_key_;
};

}  // namespace interlace
