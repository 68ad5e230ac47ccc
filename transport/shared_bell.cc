#include "transport/shared_bell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace interlace {
namespace {

// Not FUTEX_PRIVATE: waiters are in other processes.
long Futex(std::atomic<uint32_t>* word, int operation, uint32_t value, const timespec* timeout) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, timeout, nullptr, 0);
}

}  // namespace

void SharedBell::Ring() {
  count_.fetch_add(1, std::memory_order_seq_cst);
  if (waiters_.load(std::memory_order_seq_cst) != 0) Futex(&count_, FUTEX_WAKE, INT_MAX, nullptr);
}

void SharedBell::Wait(uint32_t count, absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration()) return;
  const timespec within = absl::ToTimespec(timeout);
  waiters_.fetch_add(1, std::memory_order_seq_cst);
  Futex(&count_, FUTEX_WAIT, count, &within);
  waiters_.fetch_sub(1, std::memory_order_seq_cst);
}

}  // namespace interlace
