// The search finds a plan that was planted, in fewer trials than chance does, and ends.
#include "coordinator/skip_index/plan_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/skip_index/key_cloud.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 30;

// Each sublayer costs the rate its own factor; some cost next to nothing.
struct Planted {
  explicit Planted(Entropy& entropy, double harmless = 0.4) {
    for (int32_t s = 0; s < 2 * kLayers; ++s) {
      harm.push_back(Uniform(entropy) < harmless ? 0.001 : 0.03 + 0.2 * Uniform(entropy));
      const LayerId layer{s / 2};
      if (harm.back() < 0.01 && s >= 2 && s + 2 < 2 * kLayers) {
        (s % 2 == 0 ? best.attention : best.feed_forward).Add(layer);
      }
    }
  }
  double RateOf(const SkipPlan& plan) const {
    double sum = 0;
    for (int32_t l = 0; l < kLayers; ++l) {
      if (plan.attention.Has(LayerId{l})) sum += harm[2 * l];
      if (plan.feed_forward.Has(LayerId{l})) sum += harm[2 * l + 1];
    }
    return 0.97 * std::exp(-sum);
  }
  double Right(Entropy& entropy, const SkipPlan& plan, int32_t tried) const {
    int32_t right = 0;
    for (int32_t i = 0; i < tried; ++i) right += Uniform(entropy) < RateOf(plan) ? 1 : 0;
    return right;
  }
  double LossOf(const PassCosts& costs, const SkipPlan& plan) const { return PlanLoss(costs, plan, RateOf(plan)); }
  std::vector<double> harm;
  SkipPlan best;
};

PassCosts Costs() { return {.layers = kLayers}; }
constexpr int32_t kBatch = 48;

// Loss of what `turns` trials of a batch each found: by the search, and by random plans of as many sublayers.
double Searched(const Planted& planted, uint64_t seed, int turns) {
  const auto chance = MakeSeededEntropy(seed);
  PlanSearch search(Costs(), chance->Fork("search"));
  for (int turn = 0; turn < turns; ++turn) {
    const SkipPlan plan = search.Propose();
    search.Note(plan, kBatch, planted.Right(*chance, plan, kBatch));
  }
  return planted.LossOf(Costs(), search.best().plan);
}
double ByChance(const Planted& planted, uint64_t seed, int turns) {
  const auto chance = MakeSeededEntropy(seed);
  SkipPlan best;
  double least = 2;
  for (int turn = 0; turn < turns; ++turn) {
    const SkipPlan plan = RandomPlan(*chance, kLayers, 0.05 + 0.4 * Uniform(*chance));
    const double rate = planted.Right(*chance, plan, kBatch) / kBatch;
    const double loss = PlanLoss(Costs(), plan, rate);
    if (loss < least) best = plan;
    least = std::min(least, loss);
  }
  return planted.LossOf(Costs(), best);
}

TEST(PlanLossTest, PassesThatAreRightAndSmallGain) {
  const PassCosts costs = Costs();
  EXPECT_NEAR(PassShare(costs, {}), 1, 1e-9);
  const SkipPlan half = SkipPlan::Evenly(28, kLayers);
  EXPECT_LT(PlanLoss(costs, half, 0.9), PlanLoss(costs, half, 0.7));
  EXPECT_LT(PlanLoss(costs, half, 0.9), PlanLoss(costs, {}, 0.9));
  EXPECT_EQ(PlanLoss(costs, half, 0), 1);
  for (const double loss : {0.95, 0.8, 0.7}) {
    EXPECT_LE(PlanLoss(costs, half, RateFor(costs, half, loss)), loss);
    EXPECT_GT(PlanLoss(costs, half, RateFor(costs, half, loss) - 0.01), loss);
  }
  EXPECT_GT(RateFor(costs, {}, 0.2), 1) << "no rate makes a whole pass so cheap";
}

TEST(PlanLossTest, FetchesCountByLambda) {
  PassCosts costs = Costs();
  costs.fetch.assign(kLayers, 0);
  costs.fetch[5] = 0.5;
  costs.lambda = 2;
  SkipPlan without;
  without.attention.Add(LayerId{5});
  EXPECT_NEAR(PlanLoss(costs, {}, 0.9) - PlanLoss(Costs(), {}, 0.9), 1, 1e-9);
  EXPECT_EQ(PlanLoss(costs, without, 0.9), PlanLoss(Costs(), without, 0.9));
}

TEST(PlanLossTest, PlansOfOtherLayersDoNotFit) {
  EXPECT_TRUE(Fits(SkipPlan::Evenly(20, kLayers), kLayers));
  EXPECT_FALSE(Fits(SkipPlan::Evenly(50, 60), kLayers));
  SkipPlan plan;
  plan.feed_forward.Add(LayerId{0});
  EXPECT_FALSE(Fits(plan, kLayers));
  EXPECT_FALSE(Fits(plan, 0));
  EXPECT_TRUE(Fits({}, 0));
}

TEST(PlanSearchTest, ItBeginsWithEvenlySpreadPlansAndTheFirst) {
  const auto entropy = MakeSeededEntropy(1);
  const SkipPlan given = RandomPlan(*entropy, kLayers, 0.2);
  PlanSearch search(Costs(), entropy->Fork("search"), {given});
  EXPECT_EQ(search.Propose(), given);
  search.Note(given, 48, 10);
  EXPECT_EQ(search.Propose(), SkipPlan::Evenly(22, kLayers));
}

TEST(PlanSearchTest, EqualSeedsAndRatesGiveEqualSearches) {
  const auto entropy = MakeSeededEntropy(2);
  const Planted planted(*entropy);
  PlanSearch a(Costs(), MakeSeededEntropy(7)), b(Costs(), MakeSeededEntropy(7));
  for (int i = 0; i < 200; ++i) {
    const SkipPlan plan = a.Propose();
    ASSERT_EQ(plan, b.Propose());
    ASSERT_TRUE(Fits(plan, kLayers));
    const double right = planted.Right(*entropy, plan, kBatch);
    a.Note(plan, kBatch, right);
    b.Note(plan, kBatch, right);
    ASSERT_LE(a.size(), PlanSearch::kMostArms);
  }
}

TEST(PlanSearchTest, ItFindsAPlantedPlanFasterThanChance) {
  const auto entropy = MakeSeededEntropy(3);
  constexpr int kRuns = 12, kTrials = 200;
  double best = 0, searched = 0, by_chance = 0, more_chance = 0;
  for (uint64_t run = 0; run < kRuns; ++run) {
    const Planted planted(*entropy);
    best += planted.LossOf(Costs(), planted.best) / kRuns;
    searched += Searched(planted, 100 + run, kTrials) / kRuns;
    by_chance += ByChance(planted, 100 + run, kTrials) / kRuns;
    more_chance += ByChance(planted, 100 + run, 10 * kTrials) / kRuns;
  }
  std::printf("loss: planted %.3f, searched %.3f, by chance %.3f, ten times as many by chance %.3f\n", best, searched,
              by_chance, more_chance);
  EXPECT_LT(searched, by_chance - 0.07);
  EXPECT_LT(searched, more_chance - 0.07);
  EXPECT_LT(searched - best, (1 - best) / 2) << "half of what there is to gain";
}

TEST(PlanSearchTest, ItEndsWithWhatIsThere) {
  const auto entropy = MakeSeededEntropy(4);
  for (const double harmless : {0.0, 0.3, 1.0}) {
    const Planted planted(*entropy, harmless);
    PlanSearch search(Costs(), entropy->Fork("search"));
    int turns = 0;
    for (; !search.converged() && turns < 3000; ++turns) {
      const SkipPlan plan = search.Propose();
      search.Note(plan, kBatch, planted.Right(*entropy, plan, kBatch));
    }
    EXPECT_TRUE(search.converged()) << harmless;
    EXPECT_LE(planted.LossOf(Costs(), search.best().plan), planted.LossOf(Costs(), SkipPlan::Evenly(22, kLayers)));
    EXPECT_EQ(search.Propose(), search.best().plan) << "there is nothing to try any more";
  }
}

TEST(PlanSearchTest, LayersOnTheHostArePassedOver) {
  const auto entropy = MakeSeededEntropy(5);
  const Planted planted(*entropy, 1);
  PassCosts costs = Costs();
  costs.fetch.assign(kLayers, 0);
  for (int32_t l = 1; l < kLayers; l += 4) costs.fetch[l] = 0.2;
  PlanSearch search(costs, entropy->Fork("search"));
  for (int turn = 0; turn < 400; ++turn) {
    const SkipPlan plan = search.Propose();
    search.Note(plan, kBatch, planted.Right(*entropy, plan, kBatch));
  }
  int32_t passed = 0, all = 0;
  for (int32_t l = 1; l + 1 < kLayers; l += 4, ++all) passed += search.best().plan.attention.Has(LayerId{l}) ? 1 : 0;
  EXPECT_GE(passed, all - 1);
}

// Whatever is told of rates, the search stays bounded and proposes plans that fit.
TEST(PlanSearchTest, RatesThatCannotBeDoNoHarm) {
  const auto entropy = MakeSeededEntropy(6);
  PlanSearch search(Costs(), entropy->Fork("search"));
  for (int turn = 0; turn < 2000; ++turn) {
    const SkipPlan plan = Uniform(*entropy) < 0.5 ? search.Propose() : RandomPlan(*entropy, kLayers, 0.5);
    const double tried = static_cast<double>(entropy->Next() % 300);
    search.Note(plan, tried, Uniform(*entropy) < 0.3 ? 0 : tried * Uniform(*entropy));
    ASSERT_LE(search.size(), PlanSearch::kMostArms);
    ASSERT_TRUE(Fits(search.Propose(), kLayers));
  }
}

TEST(PlanSearchTest, AModelOfTwoLayersHasNothingToPassOver) {
  PlanSearch search({.layers = 2}, MakeSeededEntropy(1));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(search.Propose(), SkipPlan());
    search.Note(search.Propose(), 48, 40);
  }
}

}  // namespace
}  // namespace interlace
