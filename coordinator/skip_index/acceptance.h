// Acceptance: the chance that a plan's guess is right, with a bound on what is not known of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace interlace {

// Counts of guesses that were judged, the older ones fading once there are kMemory: what prompts are like changes. A
// guess behind a wrong one says nothing and is not counted. A value.
class Acceptance {
 public:
  Acceptance() = default;
  Acceptance(double tried, double right) : tried_(tried), right_(right) {}

  // Of `tried` more, `right` were right.
  void Note(double tried, double right) {
    tried_ += tried;
    right_ += right;
    if (tried_ <= kMemory) return;
    right_ *= kMemory / tried_;
    tried_ = kMemory;
  }
  double tried() const { return tried_; }
  double right() const { return right_; }
  // Of a Beta(1, 1) that has seen them: one half while nothing was tried.
  double mean() const { return (right_ + 1) / (tried_ + 2); }
  // Wilson's score interval (1927), one-sided 95 %: 0 and 1 while nothing was tried.
  double Lower() const { return Bound(-kDeviations); }
  double Upper() const { return Bound(kDeviations); }
  friend bool operator==(const Acceptance&, const Acceptance&) = default;

  static constexpr double kMemory = 512;

 private:
  static constexpr double kDeviations = 1.645;
  double Bound(double z) const {
    if (tried_ <= 0) return z < 0 ? 0 : 1;
    const double share = right_ / tried_, zz = z * z / tried_;
    const double middle = share + zz / 2;
    const double reach = z * std::sqrt(share * (1 - share) / tried_ + zz / (4 * tried_));
    return std::clamp((middle + reach) / (1 + zz), 0.0, 1.0);
  }
  double tried_ = 0;
  double right_ = 0;
};

}  // namespace interlace
