// PlanSearch: which skip plan serves a set of prompts best, found by trying plans on their streams.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/entropy.h"
#include "coordinator/skip_index/acceptance.h"
#include "coordinator/skip_index/harm_model.h"
#include "coordinator/skip_index/plan_loss.h"

namespace interlace {

// A plan that was tried, and how it did.
struct TriedPlan {
  SkipPlan plan;
  Acceptance acceptance;
};

// It begins with what it is given and with plans that pass over evenly spread sublayers. Then it alternates between
// plans that may still be better than the best one, by the bound on what is known of them; changes of the best few, a
// sublayer or two more, fewer, or others instead; and the plan that would be best if what passing a sublayer over does
// to log(rate) added up (HarmModel), by a draw from what is believed of that. It ends when the best plan's guesses are
// right so often (kRight) that nothing is left to find, or when so many plans (kFailures) were no better. Source of
// start, measure and end: Xia et al., "SWIFT", arXiv 2410.06916, which tries each plan on 50 tokens of context, and
// changes the best one by chance.
//
// Pure but for its Entropy, so equal seeds and rates give equal searches. Bounded: kMostArms plans are remembered. A
// member of SkipAdvisor; thread: its user's.
class PlanSearch {
 public:
  static constexpr size_t kMostArms = 24;
  static constexpr double kTrial = 48;    // guesses after which a plan is judged
  static constexpr double kEnough = 160;  // and after which it is known
  static constexpr double kRight = 0.93;
  static constexpr int32_t kFailures = 40;  // or four times as many as sublayers may be passed over

  // `costs` has two layers or more.
  PlanSearch(PassCosts costs, std::unique_ptr<Entropy> entropy, std::vector<SkipPlan> first = {});

  // What to try next. The same plan may be asked of several streams at once.
  SkipPlan Propose();
  // Of `tried` guesses by a plan that was proposed, or that is used anyway, `right` were right.
  void Note(const SkipPlan& plan, double tried, double right);
  // The least loss by its mean rate, among those that were judged; before there are any, the first plan.
  TriedPlan best() const;
  // Of a plan that is remembered; null: it is not.
  const TriedPlan* Find(const SkipPlan& plan) const;
  bool converged() const { return converged_; }
  double LossOf(const TriedPlan& tried) const { return PlanLoss(costs_, tried.plan, tried.acceptance.mean()); }
  const PassCosts& costs() const { return costs_; }
  size_t size() const { return arms_.size(); }

 private:
  struct Arm : TriedPlan {
    bool judged = false;  // tried long enough to be compared with the best one, or to see that it never will be
  };
  const Arm* Best() const;
  double Hope(const Arm& arm) const { return PlanLoss(costs_, arm.plan, arm.acceptance.Upper()); }
  const Arm* Promising(double loss);
  SkipPlan Change(const SkipPlan& plan);
  void Flip(const std::vector<double>& harm, bool add, SkipPlan* plan);
  SkipPlan Modelled();
  double Saves(size_t sublayer) const;
  Arm& ArmOf(const SkipPlan& plan);
  bool Better(const Arm& a, const Arm& b) const;
  int32_t Inner() const { return 2 * (costs_.layers - 2); }  // sublayers between the first and the last layer
  size_t Draw(size_t count) { return static_cast<size_t>(entropy_->Next() % count); }

  PassCosts costs_;
  std::unique_ptr<Entropy> entropy_;
  std::vector<Arm> arms_;
  HarmModel harm_;
  int32_t failures_ = 0, judged_ = 0, most_failures_ = kFailures;
  bool converged_ = false;
};

}  // namespace interlace
