// RateBucket: how much of something may be used a minute; a pure function of the times it is told.
#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace interlace {

// Holds what a minute gives and fills steadily. It may be in debt: what is taken beyond its content must fill up again
// before more can be had, so that in the long run no more is used than `per_minute`. Owned by a Tenant, under its lock.
class RateBucket {
 public:
  // 0: no limit. A bucket that had no limit begins full; otherwise what is in it stays, as far as it still fits.
  void SetRate(double per_minute, absl::Time now) {
    level_ = rate_ > 0 ? std::min(Level(now), per_minute) : per_minute;
    rate_ = per_minute;
    at_ = now;
  }
  bool limited() const { return rate_ > 0; }
  double per_minute() const { return rate_; }
  double Level(absl::Time now) const {
    return std::min(rate_, level_ + rate_ * absl::ToDoubleMinutes(std::max(absl::ZeroDuration(), now - at_)));
  }
  // How long until `amount` may be taken. Of an amount that the bucket can never hold, until it is full.
  absl::Duration Wait(double amount, absl::Time now) const {
    const double lacks = std::min(amount, rate_) - Level(now);
    return limited() && lacks > 0 ? absl::Minutes(lacks / rate_) : absl::ZeroDuration();
  }
  absl::Duration UntilFull(absl::Time now) const { return Wait(rate_, now); }
  // A negative amount gives back.
  void Take(double amount, absl::Time now) {
    if (!limited()) return;
    level_ = std::min(rate_, Level(now) - amount);
    at_ = now;
  }

 private:
  double rate_ = 0;   // a minute; also what the bucket holds
  double level_ = 0;  // at `at_`; negative: debt
  absl::Time at_ = absl::UnixEpoch();
};

}  // namespace interlace
