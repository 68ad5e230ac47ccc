// Draws from an Entropy.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "common/entropy.h"

namespace interlace::sim {

// Uniform in [low, high].
inline int64_t Draw(Entropy& entropy, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(entropy.Next() % static_cast<uint64_t>(high - low + 1));
}
inline bool Chance(Entropy& entropy, int32_t percent) { return Draw(entropy, 0, 99) < percent; }
inline absl::Duration DrawTime(Entropy& entropy, absl::Duration low, absl::Duration high) {
  return absl::Microseconds(Draw(entropy, absl::ToInt64Microseconds(low), absl::ToInt64Microseconds(high)));
}

}  // namespace interlace::sim
