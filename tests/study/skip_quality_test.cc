// Quality against cost: costs against sums by hand, the Pareto front against its definition, figures of made samples.
#include "bench/study/skip_quality.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/study/skip_study.h"
#include "common/entropy.h"
#include "tests/bench_report/page_check.h"

namespace interlace {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kLayers = 6;

// Numbers that no two sums of differ by chance.
ModelCost MadeCost(int32_t window = 0) {
  ModelCost model;
  for (int32_t l = 0; l < kLayers; ++l) {
    model.layers.push_back({.attention = {1000, 500},
                            .kv = {100, 50},
                            .feed_forward = {20000, 7000},
                            .pair = {3, 4},
                            .row_bytes = 4,
                            .window = l % 2 == 0 ? window : 0});
  }
  model.head = {5000, 900};
  return model;
}

TEST(SkipCostTest, OfThePlanThatPassesNothingIsTheWholeModels) {
  const TokenCost whole = CostOfPlan(MadeCost(), {}, 10);
  EXPECT_DOUBLE_EQ(whole.flops, 6 * (1000 + 20000 + 10 * 3) + 5000);
  EXPECT_DOUBLE_EQ(whole.bytes, 6 * (500 + 7000 + 10 * 4 + 4) + 900);
  for (const int32_t exit : {kLayers - 1, kLayers}) {
    EXPECT_DOUBLE_EQ(CostOfPlan(MadeCost(), SkipPlan::After(exit, kLayers), 10).flops, whole.flops) << exit;
  }
  EXPECT_DOUBLE_EQ(CostOfExit(MadeCost(), kLayers, 0, 10).flops, whole.flops);
  EXPECT_DOUBLE_EQ(CostOfExit(MadeCost(), kLayers, 0, 10).bytes, whole.bytes);
}

TEST(SkipCostTest, OfWhatIsPassedOverKeysAndValuesAreLeft) {
  SkipPlan attention, feed_forward;
  attention.attention.Add(LayerId{2});
  feed_forward.feed_forward.Add(LayerId{3});
  const TokenCost whole = CostOfPlan(MadeCost(), {}, 10);
  EXPECT_DOUBLE_EQ(whole.flops - CostOfPlan(MadeCost(), attention, 10).flops, 1000 + 30 - 100);
  EXPECT_DOUBLE_EQ(whole.bytes - CostOfPlan(MadeCost(), attention, 10).bytes, 500 + 40 - 50);
  EXPECT_DOUBLE_EQ(whole.flops - CostOfPlan(MadeCost(), feed_forward, 10).flops, 20000);
  // Two looks, the second of which sent the row away behind four layers.
  EXPECT_DOUBLE_EQ(CostOfExit(MadeCost(), 4, 2, 10).flops, 4 * (1000 + 20000 + 30) + 2 * 100 + 2 * 5000);
  // Two looks in vain, and the head at the end.
  EXPECT_DOUBLE_EQ(CostOfExit(MadeCost(), kLayers, 2, 10).flops, whole.flops + 2 * 5000);
}

TEST(SkipCostTest, AWindowBoundsWhatARowAttendsTo) {
  const double near = CostOfPlan(MadeCost(8), {}, 8).bytes;
  EXPECT_DOUBLE_EQ(CostOfPlan(MadeCost(8), {}, 100).bytes - near, 3 * 92 * 4) << "of six layers three have a window";
}

TEST(SkipCostTest, TheMoreIsPassedOverTheLessItCosts) {
  const auto entropy = MakeSeededEntropy(3);
  for (int round = 0; round < 200; ++round) {
    SkipPlan plan;
    TokenCost before = CostOfPlan(MadeCost(), plan, 20);
    for (int i = 0; i < 8; ++i) {
      const int32_t passed = plan.Passed(kLayers);
      (entropy->Next() % 2 == 0 ? plan.attention : plan.feed_forward)
          .Add(LayerId{static_cast<int32_t>(entropy->Next() % kLayers)});
      const TokenCost cost = CostOfPlan(MadeCost(), plan, 20);
      if (plan.Passed(kLayers) > passed) {
        EXPECT_LT(cost.flops, before.flops);
        EXPECT_LT(cost.bytes, before.bytes);
      } else {
        EXPECT_EQ(cost.flops, before.flops) << "ends are never passed over";
      }
      before = cost;
    }
  }
}

TEST(ParetoFrontTest, NoPointOfItIsDominatedAndEachOtherIsByOneOfIt) {
  const auto entropy = MakeSeededEntropy(5);
  const auto dominates = [](const std::pair<double, double>& a, const std::pair<double, double>& b) {
    return a.first <= b.first && a.second <= b.second && a != b;
  };
  for (int round = 0; round < 300; ++round) {
    std::vector<std::pair<double, double>> points(entropy->Next() % 30);
    for (auto& point : points) {
      // Few values, so that many are equal.
      point = {static_cast<double>(entropy->Next() % 8), static_cast<double>(entropy->Next() % 8)};
    }
    const std::vector<bool> front = ParetoFront(points);
    ASSERT_EQ(front.size(), points.size());
    for (size_t i = 0; i < points.size(); ++i) {
      bool by_front = false;
      for (size_t j = 0; j < points.size(); ++j) by_front |= front[j] && dominates(points[j], points[i]);
      EXPECT_NE(front[i], by_front) << points[i].first << ", " << points[i].second;
    }
  }
}

TEST(WilsonIntervalTest, AgainstValuesByHand) {
  // Of 0 right: z^2 / (n + z^2). Of 8 of 10: the two shares p with |0.8 - p| = z sqrt(p (1 - p) / 10).
  const Interval some = WilsonInterval(8, 10), none = WilsonInterval(0, 20), all = WilsonInterval(20, 20);
  EXPECT_THAT(some.low, DoubleNear(0.4901625, 1e-6));
  EXPECT_THAT(some.high, DoubleNear(0.9433178, 1e-6));
  EXPECT_EQ(none.low, 0);
  EXPECT_THAT(none.high, DoubleNear(0.1611252, 1e-6));
  EXPECT_THAT(all.low, DoubleNear(1 - 0.1611252, 1e-6));
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

TEST(PairedChanceTest, IsTheBinomialTestOfOneHalf) {
  EXPECT_DOUBLE_EQ(PairedChance(0, 0), 1);
  EXPECT_THAT(PairedChance(0, 5), DoubleNear(2.0 / 32, 1e-12));
  EXPECT_THAT(PairedChance(5, 0), DoubleNear(2.0 / 32, 1e-12));
  EXPECT_THAT(PairedChance(1, 9), DoubleNear(2 * 11.0 / 1024, 1e-12));
  EXPECT_DOUBLE_EQ(PairedChance(4, 4), 1);
}

QualitySample Sample(const std::string& method, double setting, double nll, int64_t agreed, int32_t same) {
  QualitySample sample{.method = method, .setting = setting, .task = "chat", .positions = 10};
  sample.passed = 2;
  sample.cost = {500, 600};
  sample.whole_cost = {1000, 1000};
  sample.nll = nll;
  sample.whole_nll = 10;
  sample.kl.assign(10, nll / 10 - 1);
  sample.agreed = agreed;
  sample.same = same;
  sample.decoded = 32;
  return sample;
}

TEST(QualityRowsTest, AddUpOverTexts) {
  SkipQuality quality;
  quality.samples = {Sample("static", 0.2, 20, 9, 4), Sample("static", 0.1, 12, 10, 32),
                     Sample("static", 0.2, 40, 1, 0), Sample("truncation", 4, 30, 5, 1),
                     Sample("truncation", 5, 20, 8, 2)};
  const std::vector<QualityRow> rows = QualityRows(quality);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].setting, 0.1);
  const QualityRow& row = rows[1];
  EXPECT_EQ(row.texts, 2);
  EXPECT_DOUBLE_EQ(row.perplexity, std::exp(60.0 / 20));
  EXPECT_DOUBLE_EQ(row.kl, (1 + 3) / 2.0);
  EXPECT_DOUBLE_EQ(row.agreement.mean, 0.5);
  EXPECT_DOUBLE_EQ(row.same, 2) << "the median of two texts lies between them";
  EXPECT_DOUBLE_EQ(row.flops, 0.5);
  EXPECT_DOUBLE_EQ(row.bytes, 0.6);
  EXPECT_DOUBLE_EQ(row.passed, 0.2);
  EXPECT_EQ(rows[2].setting, 5) << "of truncation the more layers run the less is passed over";
  EXPECT_DOUBLE_EQ(WholePerplexity(quality), std::exp(1.0));
}

TestSample Answers(const std::string& method, double setting, const std::vector<bool>& right) {
  return {method, setting, "choice", right, {50, 60}, {100, 100}};
}

SkipQuality WithTests() {
  SkipQuality quality;
  quality.tests = {{"choice", "questions <of> a file", 0.25}};
  quality.test_samples = {Answers("whole", 0, {true, true, true, false}),
                          Answers("even", 0.1, {true, false, false, true}),
                          Answers("confidence", 0.9, {true, true, true, false})};
  return quality;
}

TEST(QualityRowsTest, TestsArePairedWithTheWholeModel) {
  const SkipQuality quality = WithTests();
  const std::vector<QualityRow> rows = QualityRows(quality);
  ASSERT_EQ(rows.size(), 2u);
  ASSERT_EQ(rows[0].tests.size(), 1u);
  const TestRow& row = rows[0].tests[0];
  EXPECT_EQ(row.items, 4);
  EXPECT_EQ(row.right, 2);
  EXPECT_EQ(row.gained, 1);
  EXPECT_EQ(row.lost, 2);
  EXPECT_DOUBLE_EQ(row.flops, 0.5);
  EXPECT_EQ(rows[1].tests[0].lost, 0);
  ASSERT_TRUE(WholeTest(quality, "choice").has_value());
  EXPECT_DOUBLE_EQ(WholeTest(quality, "choice")->share.mean, 0.75);
  EXPECT_FALSE(WholeTest(quality, "needle").has_value());
}

SkipResult Everything() {
  SkipResult result{.layers = kLayers, .depth = 2};
  SkipPrompt& prompt = result.prompts.emplace_back();
  prompt.task = "chat";
  prompt.influence.assign(kLayers, 0.1);
  prompt.kl.assign(2 * kLayers, 0.01);
  prompt.agreement.assign(2 * kLayers, 0.9);
  result.quality = WithTests();
  for (const char* way : kSkipWays) {
    for (const double setting : {0.1, 0.2}) result.quality.samples.push_back(Sample(way, setting, 12 + setting, 7, 3));
  }
  return result;
}

TEST(SkipQualityPageTest, IsWhole) {
  const CheckedPage page = CheckPage(SkipPage(Everything(), {{"model", "<tiny> & more"}}));
  EXPECT_THAT(page.sections, ElementsAre("layers", "variation", "quality", "accuracy"));
  EXPECT_EQ(page.pictures, 5 + 8 + 2) << "of layers, of four measures and one test against two costs";
  EXPECT_THAT(page.html, HasSubstr("questions &lt;of&gt; a file"));
  SkipResult without = Everything();
  without.quality = {};
  EXPECT_THAT(CheckPage(SkipPage(without, {})).sections, ElementsAre("layers", "variation"));
}

TEST(SkipQualityPageTest, TablesAndJsonHaveEveryWay) {
  const SkipResult result = Everything();
  EXPECT_EQ(QualityTable(result.quality, kLayers).size(), 2 + 14u);
  EXPECT_EQ(AccuracyTable(result.quality, kLayers).size(), 1 + 3u);
  const auto json = nlohmann::json::parse(SkipJson(result, "interlace bench skip"));
  EXPECT_EQ(json["quality"]["rows"].size(), 15u) << "confidence at 0.9 was only tested";
  EXPECT_EQ(json["quality"]["tests"][0]["whole"]["right"], 3);
  EXPECT_EQ(SettingText("truncation", 4, kLayers), "4 of 6");
  EXPECT_EQ(SettingText("even", 0.1, kLayers), "10 %");
  EXPECT_EQ(SettingText("confidence", 0.95, kLayers), "0.95");
}

}  // namespace
}  // namespace interlace
