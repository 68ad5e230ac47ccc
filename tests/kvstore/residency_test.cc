#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/entropy.h"
#include "kvstore/residency_plan.h"
#include "kvstore/residency_planner.h"

namespace interlace {
namespace {

TEST(ResidencyPlanTest, KeepsTheDocumentedLayers) {
  std::vector<int> kept;
  for (int layer = 0; layer < 8; ++layer) {
    if (KeepsLayer(layer, 4, 8)) kept.push_back(layer);
  }
  EXPECT_EQ(kept, (std::vector<int>{1, 3, 5, 7}));
}

TEST(ResidencyPlanTest, KeepsXLayersEvenly) {
  for (int layers = 1; layers <= 40; ++layers) {
    for (int keep = 0; keep <= layers; ++keep) {
      const LayerResidencyPlan plan{layers, keep};
      EXPECT_EQ(plan.KeptIn(0, layers), keep);
      int seen = 0;
      for (int layer = 0; layer < layers; ++layer) {
        const bool kept = plan.ModeOf(LayerId{layer}) == LayerMode::kKeep;
        EXPECT_EQ(plan.KeptIn(layer, layer + 1), kept ? 1 : 0);
        seen += kept;
        EXPECT_EQ(plan.KeptIn(0, layer + 1), seen);
        EXPECT_EQ(seen, (layer + 1) * keep / layers);  // never ahead of nor behind an even spread by a layer
      }
    }
  }
}

TEST(ResidencyPlanTest, Prints) { EXPECT_EQ((LayerResidencyPlan{30, 15}.ToString()), "15/30 kept"); }

TEST(SlotsNeededTest, CountsKeptStreamedAndPassing) {
  const StageCapacity stage{0, 8, 100};
  EXPECT_EQ(SlotsNeeded({.blocks = 5, .computes = false}, 4, 8, stage), 4 * 5 + 4);
  EXPECT_EQ(SlotsNeeded({.blocks = 5, .computes = true}, 4, 8, stage), 4 * 5 + 4 + 5);
  EXPECT_EQ(SlotsNeeded({.blocks = 5, .computes = true}, 8, 8, stage), 8 * 5);
  EXPECT_EQ(SlotsNeeded({.blocks = 5, .computes = true}, 0, 8, stage), 8 + 5);
  EXPECT_EQ(SlotsNeeded({.blocks = 0, .computes = true}, 0, 8, stage), 0);
  EXPECT_EQ(ShortfallAlone(5, 8, {{0, 8, 10}}), 3);
  EXPECT_EQ(ShortfallAlone(5, 8, {{0, 4, 10}, {4, 8, 7}}), 2);  // 4 + 5 on each; the second is tightest
}

struct Case {
  int32_t layers = 0;
  std::vector<StageCapacity> stages;
  std::vector<SequenceDemand> demands;  // those on the device fitted once, then grew
};

int64_t Used(const Case& c, const std::vector<int32_t>& keep, const StageCapacity& stage) {
  int64_t used = 0;
  for (size_t d = 0; d < c.demands.size(); ++d) used += SlotsNeeded(c.demands[d], keep[d], c.layers, stage);
  return used;
}
bool Fits(const Case& c, const std::vector<int32_t>& keep) {
  return std::all_of(c.stages.begin(), c.stages.end(), [&](const auto& s) { return Used(c, keep, s) <= s.slots; });
}

Case RandomCase(Entropy& entropy, int max_stages) {
  const auto below = [&](uint64_t n) { return static_cast<int32_t>(entropy.Next() % n); };
  Case c;
  c.layers = 1 + below(32);
  const int stages = std::min(c.layers, 1 + below(max_stages));
  for (int s = 0; s < stages; ++s) {
    c.stages.push_back({c.layers * s / stages, c.layers * (s + 1) / stages, 1 + below(600)});
  }
  const int demands = 1 + below(8);
  for (int d = 0; d < demands; ++d) {
    const bool last = d + 1 == demands;
    const bool fresh = last && below(2) == 0;
    c.demands.push_back({1 + below(40), fresh ? -1 : below(c.layers + 1), below(3) > 0});
  }
  return c;
}

class PlannerPropertyTest : public testing::TestWithParam<int> {};

TEST_P(PlannerPropertyTest, Auto) {
  auto entropy = MakeSeededEntropy(77);
  int fitted = 0, lowered = 0;
  for (int round = 0; round < 4000; ++round) {
    const Case c = RandomCase(*entropy, GetParam());
    const ResidencyChoice choice = PlanResidency(c.demands, c.layers, c.stages, -1);
    ASSERT_EQ(choice.keep.size(), c.demands.size());
    const ResidencyChoice again = PlanResidency(c.demands, c.layers, c.stages, -1);
    EXPECT_EQ(again.fits, choice.fits);
    EXPECT_EQ(again.keep, choice.keep);

    // It fits iff something does: x = 0 for all is the least that any choice takes on one stage or many.
    EXPECT_EQ(choice.fits, Fits(c, std::vector<int32_t>(c.demands.size(), 0)) || choice.fits);
    if (!choice.fits) {
      EXPECT_FALSE(Fits(c, std::vector<int32_t>(c.demands.size(), 0)));
      continue;
    }
    ++fitted;
    EXPECT_TRUE(Fits(c, choice.keep));

    std::vector<int32_t> in_force;
    bool any_lowered = false;
    for (size_t d = 0; d < c.demands.size(); ++d) {
      EXPECT_GE(choice.keep[d], 0);
      EXPECT_LE(choice.keep[d], c.layers);
      in_force.push_back(std::max(c.demands[d].keep, 0));
      if (c.demands[d].keep < 0) continue;
      EXPECT_LE(choice.keep[d], c.demands[d].keep) << "x of a request on the device was raised";
      any_lowered |= choice.keep[d] < c.demands[d].keep;
    }
    lowered += any_lowered;
    EXPECT_EQ(any_lowered, !Fits(c, in_force)) << "x is lowered only if the demands do not fit";
    if (c.demands.back().keep < 0) {  // no larger x fits beside the others
      std::vector<int32_t> larger = choice.keep;
      for (int32_t keep = choice.keep.back() + 1; keep <= c.layers; ++keep) {
        larger.back() = keep;
        EXPECT_FALSE(Fits(c, larger));
      }
    }
  }
  EXPECT_GT(fitted, 300);
  EXPECT_GT(lowered, 100);
}

INSTANTIATE_TEST_SUITE_P(Stages, PlannerPropertyTest, testing::Values(1, 4));

TEST(PlannerTest, LoweringStopsAsSoonAsItFits) {
  auto entropy = MakeSeededEntropy(5);
  for (int round = 0; round < 4000; ++round) {
    Case c = RandomCase(*entropy, 1);
    for (SequenceDemand& demand : c.demands) demand.keep = std::max(demand.keep, 0);
    const ResidencyChoice choice = PlanResidency(c.demands, c.layers, c.stages, -1);
    if (!choice.fits) continue;
    // The last step was needed: taking it back does not fit, for at least one of those that were lowered.
    bool any_lowered = false, one_needed = false;
    for (size_t d = 0; d < c.demands.size(); ++d) {
      if (choice.keep[d] == c.demands[d].keep) continue;
      any_lowered = true;
      std::vector<int32_t> back = choice.keep;
      ++back[d];
      one_needed |= !Fits(c, back);
    }
    EXPECT_EQ(any_lowered, one_needed);
  }
}

TEST(PlannerTest, LowersTheLargestHolderFirstAndTheLaterOnATie) {
  // 8 layers; 10 and 10 and 2 blocks, all kept whole: 176 slots.
  const std::vector<SequenceDemand> demands = {{10, 8, false}, {10, 8, false}, {2, 8, false}};
  EXPECT_EQ(PlanResidency(demands, 8, {{0, 8, 176}}, -1).keep, (std::vector<int32_t>{8, 8, 8}));
  EXPECT_EQ(PlanResidency(demands, 8, {{0, 8, 175}}, -1).keep, (std::vector<int32_t>{8, 7, 8}));
  EXPECT_EQ(PlanResidency(demands, 8, {{0, 8, 160}}, -1).keep, (std::vector<int32_t>{7, 7, 8}));
}

TEST(PlannerTest, FixedKeepIsTheSameForAll) {
  const std::vector<SequenceDemand> demands = {{10, 3, false}, {4, -1, true}};
  EXPECT_EQ(PlanResidency(demands, 8, {{0, 8, 1000}}, 5).keep, (std::vector<int32_t>{5, 5}));
  EXPECT_EQ(PlanResidency(demands, 8, {{0, 8, 1000}}, 99).keep, (std::vector<int32_t>{8, 8}));
  EXPECT_TRUE(PlanResidency(demands, 8, {{0, 8, 112}}, 99).fits);
  EXPECT_FALSE(PlanResidency(demands, 8, {{0, 8, 111}}, 99).fits);
}

TEST(PlannerTest, NothingToPlanFits) { EXPECT_TRUE(PlanResidency({}, 8, {{0, 8, 1}}, -1).fits); }

}  // namespace
}  // namespace interlace
