#include "common/clock.h"

#include <chrono>

#include "absl/time/clock.h"

namespace interlace {

absl::Time RealClock::Now() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

absl::Time WallTime() { return absl::Now(); }

int64_t WallSeconds() { return absl::ToUnixSeconds(absl::Now()); }

}  // namespace interlace
