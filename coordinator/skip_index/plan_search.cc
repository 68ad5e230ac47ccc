#include "coordinator/skip_index/plan_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/check.h"

namespace interlace {
namespace {

// Of the sublayers between the first and the last layer, in the plans that a search begins with.
constexpr double kFirstShares[] = {0.4, 0.25, 0.1};
constexpr int32_t kMostJudged = 3;  // plans, over those that may fail: luck alone looks better now and then
constexpr double kBetter = 0.002;   // less loss than that is no success

}  // namespace

PlanSearch::PlanSearch(PassCosts costs, std::unique_ptr<Entropy> entropy, std::vector<SkipPlan> first)
    : costs_(std::move(costs)), entropy_(std::move(entropy)), harm_(costs_.layers) {
  CHECK(costs_.layers >= 2);
  const int32_t inner = Inner();
  for (const double share : kFirstShares) {
    first.push_back(inner == 0 ? SkipPlan() : SkipPlan::Evenly(static_cast<int32_t>(share * inner), costs_.layers));
  }
  for (const SkipPlan& plan : first) ArmOf(plan);
  most_failures_ = std::max(kFailures, 4 * inner);
}

PlanSearch::Arm& PlanSearch::ArmOf(const SkipPlan& plan) {
  const auto known = std::find_if(arms_.begin(), arms_.end(), [&](const Arm& arm) { return arm.plan == plan; });
  if (known != arms_.end()) return *known;
  if (arms_.size() == kMostArms) {  // the one with the least hope goes
    const Arm* const best = Best();
    auto worst = arms_.end();
    for (auto it = arms_.begin(); it != arms_.end(); ++it) {
      if (&*it != best && (worst == arms_.end() || Hope(*it) >= Hope(*worst))) worst = it;
    }
    arms_.erase(worst);
  }
  return arms_.emplace_back(Arm{{plan, {}}});
}

const PlanSearch::Arm* PlanSearch::Best() const {
  const Arm* best = nullptr;
  for (const Arm& arm : arms_) {
    if (arm.judged && (best == nullptr || Better(arm, *best))) best = &arm;
  }
  return best;
}

bool PlanSearch::Better(const Arm& a, const Arm& b) const {
  const double of_a = LossOf(a), of_b = LossOf(b);
  return of_a < of_b || (of_a == of_b && a.acceptance.mean() > b.acceptance.mean());
}

TriedPlan PlanSearch::best() const {
  const Arm* const best = Best();
  return best == nullptr ? arms_.front() : *best;
}

const TriedPlan* PlanSearch::Find(const SkipPlan& plan) const {
  const auto known = std::find_if(arms_.begin(), arms_.end(), [&](const Arm& arm) { return arm.plan == plan; });
  return known == arms_.end() ? nullptr : &*known;
}

// Of those that are not known well: the one that may be the best by the widest margin.
const PlanSearch::Arm* PlanSearch::Promising(double loss) {
  const Arm* found = nullptr;
  for (const Arm& arm : arms_) {
    if (arm.acceptance.tried() >= kEnough || Hope(arm) >= loss) continue;
    if (found == nullptr || Hope(arm) < Hope(*found)) found = &arm;
  }
  return found;
}

SkipPlan PlanSearch::Propose() {
  for (const Arm& arm : arms_) {  // whatever is there is judged first
    if (!arm.judged) return arm.plan;
  }
  const Arm* const best = Best();
  if (converged_) return best->plan;
  const Arm* const promising = Promising(LossOf(*best));
  if (promising != nullptr && Draw(4) == 0) return promising->plan;
  if (Draw(3) != 0) return ArmOf(Modelled()).plan;
  // One of the best few is changed.
  std::vector<const Arm*> few;
  for (const Arm& arm : arms_) few.push_back(&arm);
  const size_t count = std::min<size_t>(3, few.size());
  std::partial_sort(few.begin(), few.begin() + static_cast<ptrdiff_t>(count), few.end(),
                    [&](const Arm* a, const Arm* b) { return Better(*a, *b); });
  const SkipPlan changed = Change(few[std::min(Draw(count), Draw(count))]->plan);
  return ArmOf(changed).plan;
}

SkipPlan PlanSearch::Change(const SkipPlan& plan) {
  SkipPlan changed = plan;
  const std::vector<double> harm = harm_.Mean().harm;
  const size_t kind = Draw(3), times = 1 + Draw(2);
  for (size_t i = 0; i < times; ++i) {
    if (kind != 0) Flip(harm, true, &changed);
    if (kind != 1) Flip(harm, false, &changed);
  }
  return changed;
}

// What passing the sublayer over saves, fetches included, in layers of a pass.
double PlanSearch::Saves(size_t sublayer) const {
  if (sublayer % 2 == 1) return 1 - costs_.attention;
  const size_t layer = sublayer / 2;
  return costs_.attention + (layer < costs_.fetch.size() ? costs_.lambda * costs_.fetch[layer] * costs_.layers : 0);
}

// Of three sublayers by chance, the one that costs least, or most, in rate for what it saves.
void PlanSearch::Flip(const std::vector<double>& harm, bool add, SkipPlan* plan) {
  std::vector<size_t> may;
  for (size_t s = 2; s + 2 < harm.size(); ++s) {
    if (Passes(*plan, s) != add) may.push_back(s);
  }
  if (may.empty()) return;
  const auto price = [&](size_t s) { return harm[s] / Saves(s); };
  size_t chosen = may[Draw(may.size())];
  for (int i = 0; i < 2; ++i) {
    const size_t other = may[Draw(may.size())];
    if (add ? price(other) < price(chosen) : price(other) > price(chosen)) chosen = other;
  }
  SetPassed(plan, chosen, add);
}

// Sublayers by what they cost for what they save, as many as have the least loss together.
SkipPlan PlanSearch::Modelled() {
  const HarmModel::Terms terms = harm_.Draw(*entropy_);
  std::vector<std::pair<double, size_t>> order;
  for (size_t s = 2; s + 2 < terms.harm.size(); ++s) order.emplace_back(terms.harm[s] / Saves(s), s);
  std::sort(order.begin(), order.end());
  SkipPlan plan, best;
  double sum = terms.base, least = PlanLoss(costs_, plan, std::exp(-sum));
  for (const auto& [price, sublayer] : order) {
    SetPassed(&plan, sublayer, true);
    sum += terms.harm[sublayer];
    const double loss = PlanLoss(costs_, plan, std::exp(-sum));
    if (loss >= least) continue;
    least = loss;
    best = plan;
  }
  return best;
}

void PlanSearch::Note(const SkipPlan& plan, double tried, double right) {
  if (tried <= 0) return;
  const Arm* const before = Best();
  const double loss = before == nullptr ? std::numeric_limits<double>::infinity() : LossOf(*before);
  Arm& arm = ArmOf(plan);
  arm.acceptance.Note(tried, right);
  harm_.Note(plan, tried, right);
  const bool hopeless = Hope(arm) >= std::min(loss, 1.0);
  if (!arm.judged && (hopeless || arm.acceptance.tried() >= kTrial)) {
    arm.judged = true;
    ++judged_;
    failures_ = LossOf(arm) < loss - kBetter ? 0 : failures_ + 1;
  }
  const Arm* const best = Best();
  if (best == nullptr) return;
  // A plan that passes over next to nothing is always right, and no end.
  const bool passes = best->plan.Passed(costs_.layers) >= static_cast<int32_t>(kFirstShares[0] * Inner());
  const bool done = passes && best->acceptance.tried() >= kEnough && best->acceptance.Lower() >= kRight;
  converged_ = converged_ || failures_ >= most_failures_ || judged_ >= kMostJudged * most_failures_ || done;
}

}  // namespace interlace
