// HarmModel: what passing each sublayer over does to the rate of right guesses, learned from whole plans.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/entropy.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

// Log(rate) of a plan is taken for a sum over the sublayers that it passes over, and of one term for a pass through all
// of them. Bayesian linear regression: each outcome of a plan is one equation, as sure as its number of guesses allows.
// A draw from what is then believed of all terms together (Thompson sampling; Agrawal, Goyal, arXiv 1209.3352) makes a
// search look at what is promising and at what is not known.
//
// A member of PlanSearch. A matrix of so many numbers as there are sublayers, squared: 25 KB for 30 layers, 200 KB
// for 80.
class HarmModel {
 public:
  explicit HarmModel(int32_t layers);

  // Of `tried` guesses by the plan, `right` were right.
  void Note(const SkipPlan& plan, double tried, double right);
  struct Terms {
    double base = 0;           // of a pass through all sublayers, in -log(rate)
    std::vector<double> harm;  // [2 layers] likewise; attention of layer l at 2 l, its feed-forward part at 2 l + 1
  };
  // None of them below zero.
  Terms Draw(Entropy& entropy) const;
  Terms Mean() const;

 private:
  Terms Solve(std::vector<double> noise) const;
  double& At(size_t row, size_t column) { return precision_[row * terms_ + column]; }

  size_t layers_, terms_;          // the base, then the sublayers between the first and the last layer
  std::vector<double> precision_;  // [terms, terms], the lower half
  std::vector<double> weighted_;   // [terms] precision times mean
};

inline bool Passes(const SkipPlan& plan, size_t sublayer) {
  const LayerId layer{static_cast<int32_t>(sublayer / 2)};
  return sublayer % 2 == 0 ? plan.attention.Has(layer) : plan.feed_forward.Has(layer);
}
inline void SetPassed(SkipPlan* plan, size_t sublayer, bool passed) {
  LayerSet& set = sublayer % 2 == 0 ? plan->attention : plan->feed_forward;
  const LayerId layer{static_cast<int32_t>(sublayer / 2)};
  passed ? set.Add(layer) : set.Remove(layer);
}

}  // namespace interlace
