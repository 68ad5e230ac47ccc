// Acceptance: the chance that a plan's guess is right, with a bound on what is not known of it.
#pragma once

#include "common/wilson.h"

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
  // Wilson's, one-sided 95 %: 0 and 1 while nothing was tried.
  double Lower() const { return WilsonBound(right_, tried_, -kDeviations); }
  double Upper() const { return WilsonBound(right_, tried_, kDeviations); }
  friend bool operator==(const Acceptance&, const Acceptance&) = default;

  static constexpr double kMemory = 512;

 private:
  static constexpr double kDeviations = 1.645;
  double tried_ = 0;
  double right_ = 0;
};

}  // namespace interlace
