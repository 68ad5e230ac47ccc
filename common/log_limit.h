// LogLimit: how often a line may be logged that others can cause at will.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace interlace {

// Lets one line through in each period and counts the others, so that strangers cannot fill the log. Whoever logs owns
// it; one thread.
//
//   if (std::optional<int64_t> held_back = limit.Pass(clock.Now())) {
//     LOG(WARNING) << "connection refused" << Field("more", *held_back);
//   }
class LogLimit {
 public:
  explicit LogLimit(absl::Duration period) : period_(period) {}

  // How many lines were held back since the last that was let through; nullopt: this one is held back too.
  std::optional<int64_t> Pass(absl::Time now) {
    if (now < next_) {
      ++held_back_;
      return std::nullopt;
    }
    next_ = now + period_;
    const int64_t held_back = held_back_;
    held_back_ = 0;
    return held_back;
  }

 private:
  const absl::Duration period_;
  absl::Time next_ = absl::InfinitePast();
  int64_t held_back_ = 0;
};

}  // namespace interlace
