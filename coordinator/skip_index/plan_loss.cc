#include "coordinator/skip_index/plan_loss.h"

#include <algorithm>

#include "coordinator/speculation.h"

namespace interlace {

double PassShare(const PassCosts& costs, const SkipPlan& plan) {
  double runs = 0;
  for (int32_t l = 0; l < costs.layers; ++l) {
    if (plan.RunsAttention(LayerId{l}, costs.layers)) runs += costs.attention;
    if (plan.RunsFeedForward(LayerId{l}, costs.layers)) runs += 1 - costs.attention;
  }
  return costs.outside + (1 - costs.outside) * runs / std::max(1, costs.layers);
}

double PlanLoss(const PassCosts& costs, const SkipPlan& plan, double rate) {
  const double row = PassShare(costs, plan) + costs.verify;
  double least = 1;
  for (int32_t depth = 1; depth <= costs.most_drafts; ++depth) {
    least = std::min(least, (1 + depth * row) / TokensOfStep(rate, depth));
  }
  double fetches = 0;
  for (size_t l = 0; l < costs.fetch.size(); ++l) {
    if (plan.RunsAttention(LayerId{static_cast<int32_t>(l)}, costs.layers)) fetches += costs.fetch[l];
  }
  return least + costs.lambda * fetches;
}

double RateFor(const PassCosts& costs, const SkipPlan& plan, double loss) {
  double low = 0, high = 1;
  if (PlanLoss(costs, plan, high) > loss) return 2;
  while (high - low > 1e-3) {
    const double middle = (low + high) / 2;
    (PlanLoss(costs, plan, middle) <= loss ? high : low) = middle;
  }
  return high;
}

bool Fits(const SkipPlan& plan, int32_t layers) {
  const LayerSet inner = LayerSet::Range(1, std::max(1, layers - 1));
  return inner.Contains(plan.attention | plan.feed_forward);
}

}  // namespace interlace
