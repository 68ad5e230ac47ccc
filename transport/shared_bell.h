// SharedBell: how one process tells others, through memory they share, that something there has changed.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace interlace {

// Lies in shared memory, all zeros at first. A waiter takes count(), looks whether what it waits for is so, and calls
// Wait with the count if not: whatever rang in between ends the wait at once.
class SharedBell {
 public:
  uint32_t count() const { return count_.load(std::memory_order_seq_cst); }
  // Wakes all who wait. What was written before is seen by those who are woken.
  void Ring();
  // Returns when it rings after `count` was taken, at the latest after `timeout`; now and then for no reason.
  void Wait(uint32_t count, absl::Duration timeout);

 private:
  std::atomic<uint32_t> count_;
  std::atomic<uint32_t> waiters_;
  static_assert(std::atomic<uint32_t>::is_always_lock_free);
};

}  // namespace interlace
