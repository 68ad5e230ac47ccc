// The profile of sublayers: statistics against plain definitions, plans, texts of files, the page.
#include "bench/study/skip_study.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/entropy.h"
#include "tests/bench_report/page_check.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kLayers = 6;

// KL of each sublayer: what the task says, times what the prompt says.
SkipResult Made(double task_spread, double prompt_spread) {
  const auto entropy = MakeSeededEntropy(9);
  const auto noise = [&] { return static_cast<double>(entropy->Next() % 2001) / 1000 - 1; };
  SkipResult result{.layers = kLayers, .depth = 3, .prompts = {}, .drafts = {}};
  for (const char* task : {"chat", "code", "sums"}) {
    std::vector<double> of_task(2 * kLayers);
    for (int32_t s = 0; s < 2 * kLayers; ++s) of_task[s] = 0.1 * s + task_spread * noise();
    for (int i = 0; i < 8; ++i) {
      SkipPrompt& prompt = result.prompts.emplace_back();
      prompt.task = task;
      prompt.influence.assign(kLayers, 0.1);
      prompt.agreement.assign(2 * kLayers, 0.9);
      for (int32_t s = 0; s < 2 * kLayers; ++s) {
        prompt.kl.push_back(std::pow(10.0, -3 + of_task[s] + prompt_spread * noise()));
      }
    }
  }
  return result;
}

TEST(SkipStudyTest, VariationTellsTasksFromPrompts) {
  const SkipVariation by_task = VariationOf(Made(1, 0.05)), by_prompt = VariationOf(Made(0, 1));
  EXPECT_GT(by_task.between, 20 * by_task.within);
  EXPECT_GT(by_task.same_task, by_task.other_task + 0.2);
  // Means of 8 prompts vary an eighth as much as the prompts.
  EXPECT_NEAR(by_prompt.between / by_prompt.within, 1.0 / 8, 0.08);
  EXPECT_NEAR(by_prompt.within, 1.0 / 3, 0.05) << "the variance of a uniform number in [-1, 1]";
  EXPECT_NEAR(by_prompt.same_task, by_prompt.other_task, 0.1);
}

TEST(SkipStudyTest, RankCorrelation) {
  const std::vector<double> a = {1, 2, 3, 4}, up = {1, 10, 100, 1000}, down = {4, 3, 2, 1}, flat = {5, 5, 5, 5};
  EXPECT_DOUBLE_EQ(RankCorrelation(a, up), 1);
  EXPECT_DOUBLE_EQ(RankCorrelation(a, down), -1);
  EXPECT_EQ(RankCorrelation(a, flat), 0);
  const std::vector<double> ties = {1, 1, 2, 2};
  EXPECT_NEAR(RankCorrelation(a, ties), 2 / std::sqrt(5.0), 1e-12) << "tied values share their mean rank";
}

TEST(SkipStudyTest, SublayersThatCostLeastArePassedOverFirst) {
  const SkipResult result = Made(0, 0);
  const SkipPrompt* const prompt = &result.prompts[0];
  const std::vector<int32_t> ranked = RankSublayers({&prompt, 1}, kLayers);
  EXPECT_THAT(ranked, ElementsAre(2, 3, 4, 5, 6, 7, 8, 9)) << "KL grows with the sublayer; ends are not among them";
  const SkipPlan plan = PlanOf(ranked, 3);
  EXPECT_EQ(plan.Passed(kLayers), 3);
  EXPECT_FALSE(plan.RunsAttention(LayerId{1}, kLayers));
  EXPECT_FALSE(plan.RunsFeedForward(LayerId{1}, kLayers));
  EXPECT_FALSE(plan.RunsAttention(LayerId{2}, kLayers));
  EXPECT_EQ(PlanOf(ranked, 100).Passed(kLayers), 8);
}

SkipDrafts Drafts(int64_t tokens, int64_t steps, double draft_seconds, double verify_seconds, double plain_seconds) {
  SkipDrafts drafts{.method = "even", .task = "chat", .passed = 4, .tried = {10, 8, 6}, .right = {8, 6, 3}};
  drafts.tokens = tokens;
  drafts.steps = steps;
  drafts.draft_seconds = draft_seconds;
  drafts.verify_seconds = verify_seconds;
  drafts.plain_seconds = plain_seconds;
  return drafts;
}

TEST(SkipStudyTest, GainsAddUp) {
  SkipResult result{.layers = kLayers, .depth = 3, .prompts = {}, .drafts = {}};
  result.drafts = {Drafts(27, 10, 0.3, 0.2, 1.35), Drafts(27, 10, 0.3, 0.2, 1.35)};
  const std::vector<SkipGain> gains = GainsOf(result);
  ASSERT_EQ(gains.size(), 1u);
  EXPECT_THAT(gains[0].by_depth, ElementsAre(0.8, 0.75, 0.5));
  EXPECT_DOUBLE_EQ(gains[0].tokens_per_step, 2.7);
  EXPECT_DOUBLE_EQ(gains[0].speed, 2.7);
  // A pass takes 10 ms, a plain step 50 ms, one that verifies three guesses 20 ms: the deeper, the better.
  EXPECT_EQ(gains[0].best_depth, 3);
  EXPECT_NEAR(gains[0].best_speed, (1 + 0.8 + 0.6 + 0.3) * 50 / (30 + 20), 1e-9);
}

TEST(SkipStudyTest, DraftsThatCostMoreThanTheyGiveAreNotMade) {
  SkipResult result{.layers = kLayers, .depth = 3, .prompts = {}, .drafts = {}};
  result.drafts = {Drafts(27, 10, 3, 1, 1.35)};
  EXPECT_EQ(GainsOf(result)[0].best_depth, 0);
  EXPECT_EQ(GainsOf(result)[0].best_speed, 1);
}

TEST(SkipStudyTest, ThePageIsWhole) {
  SkipResult result = Made(0.5, 0.2);
  for (const char* method : kSkipMethods) {
    for (const int32_t passed : {2, 4}) {
      SkipDrafts drafts = Drafts(27, 10, 0.3, 0.2, 1.35);
      drafts.method = method;
      drafts.passed = passed;
      result.drafts.push_back(drafts);
    }
  }
  CheckPage(SkipPage(result, {{"model", "<tiny> & more"}}));
  EXPECT_EQ(SkipTable(result).size(), 11u);
}

}  // namespace
}  // namespace interlace
