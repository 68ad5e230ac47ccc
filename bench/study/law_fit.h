// LawFit: the machine's law, from steps that it made.
#pragma once

#include <array>
#include <cstdint>

#include "bench/policy/virtual_replica.h"
#include "coordinator/cost_model.h"

namespace interlace {

// Least squares of the relative error over all steps, with no coefficient below zero: the terms of MachineLaw, which
// are those of the scheduler's CostModel and one for bytes that move, without its fading, since a study looks back on a
// whole run. Keeps sums alone. Pure; thread: one.
class LawFit {
 public:
  // A step that took `seconds`, waits for the link not counted, while so many bytes moved over it, both ways.
  void Add(const StepWork& work, double seconds, double bytes = 0);
  // All steps of the other one, too.
  void Merge(const LawFit& other);
  // Requires: steps() > 0. The link is not fitted.
  MachineLaw Law() const;
  // Time that the steps took, over the time that `law` gives them: how slow the machine was during this run. 1 without
  // steps.
  double Slowness(const MachineLaw& law) const;
  int64_t steps() const { return steps_; }
  double seconds() const { return seconds_; }
  int64_t rows() const { return static_cast<int64_t>(sums_[1]); }  // positions computed

 private:
  static constexpr int kTerms = 6;
  using Terms = std::array<double, kTerms>;
  static Terms TermsOf(const StepWork& work, double bytes);

  int64_t steps_ = 0;
  double seconds_ = 0;
  Terms sums_{};                         // of the terms
  std::array<Terms, kTerms> squares_{};  // sum of x x' / y^2
  Terms targets_{};                      // sum of x / y
};

// The same law on a machine that is so many times as slow.
MachineLaw Slowed(MachineLaw law, double times);

}  // namespace interlace
