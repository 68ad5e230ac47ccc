// Deals: units of work dealt to the members of a team, without a barrier between them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

namespace interlace {

// Every member has a range of units of about equal cost; one that is through its own takes from the others'. Owned by
// whoever cuts an op into units, and used for one op after another: Reset before its region, Take inside it by any
// thread.
class Deals {
 public:
  struct Range {
    int64_t begin = 0, end = 0;
  };

  // Units of one cost, of which at most `most` are taken at once.
  void Reset(int64_t units, int64_t members, int64_t most) {
    Prepare(members, most);
    for (int64_t m = 0; m < members; ++m) {
      deals_[m].next.store(units * m / members, std::memory_order_relaxed);
      deals_[m].end = units * (m + 1) / members;
    }
  }
  // Units of `cost(unit)` each, taken one by one.
  template <typename Cost>
  void Reset(int64_t units, int64_t members, Cost cost) {
    Prepare(members, 1);
    int64_t total = 0;
    for (int64_t i = 0; i < units; ++i) total += cost(i);
    int64_t member = 0, before = 0;
    for (int64_t i = 0; i < units; ++i) {
      for (; member < members && before * members >= total * member; ++member) Begin(member, i, units);
      before += cost(i);
    }
    for (; member < members; ++member) Begin(member, units, units);
  }
  // The next units of a member; empty when there are none.
  Range Take(int64_t member) const {
    Deal& deal = deals_[member];
    if (deal.next.load(std::memory_order_relaxed) >= deal.end) return {};
    const int64_t begin = deal.next.fetch_add(most_, std::memory_order_relaxed);
    if (begin >= deal.end) return {};
    return {begin, std::min(begin + most_, deal.end)};
  }
  // Where a member's range ends.
  int64_t end_of(int64_t member) const { return deals_[member].end; }

 private:
  struct alignas(64) Deal {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  void Prepare(int64_t members, int64_t most) {
    if (members > size_) deals_ = std::make_unique<Deal[]>(size_ = members);
    most_ = most;
  }
  void Begin(int64_t member, int64_t i, int64_t end) {
    deals_[member].next.store(i, std::memory_order_relaxed);
    deals_[member].end = end;
    if (member > 0) deals_[member - 1].end = i;
  }

  std::unique_ptr<Deal[]> deals_;
  int64_t size_ = 0;
  int64_t most_ = 1;
};

}  // namespace interlace
