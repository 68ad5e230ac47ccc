#include "kvstore/slow_link.h"

#include <algorithm>

#include "absl/synchronization/mutex.h"

namespace interlace {
namespace {

// A wait may end that much too late; the next one is the shorter by it, so that the rate is right over many.
constexpr absl::Duration kLate = absl::Milliseconds(1);

}  // namespace

void SlowLink::Copy(void* to, const void* from, int64_t bytes, const OpFence& after) {
  if (bytes_ == 0) begin_ = clock_.Now();
  bytes_ += bytes;
  inner_.Copy(to, from, bytes, after);
}

absl::Status SlowLink::Finish() {
  const absl::Status status = inner_.Finish();
  if (bytes_ == 0) return status;
  if (free_ < begin_ - kLate) free_ = begin_;
  free_ += absl::Seconds(static_cast<double>(bytes_) / static_cast<double>(bytes_per_second_));
  bytes_ = 0;
  absl::Mutex nobody;
  absl::MutexLock lock(&nobody);
  bool never = false;
  for (absl::Time now = clock_.Now(); now < free_; now = clock_.Now()) {
    nobody.AwaitWithTimeout(absl::Condition(&never), free_ - now);
  }
  return status;
}

}  // namespace interlace
