// The rule of an entry against the model that it fits: errors within the bound, the threshold found, no trust at first.
#include "coordinator/response_cache/answer_rule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/entropy.h"
#include "tests/skip_index/key_cloud.h"

namespace interlace {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

struct World {
  double steepness, error;
  friend void PrintTo(const World& world, std::ostream* out) {
    *out << "steepness " << world.steepness << " error " << world.error;
  }
};

class AnswerRuleTest : public ::testing::TestWithParam<World> {};

// 400 entries, 250 prompts for each, whose answers are the entry's with a chance that their likeness says.
TEST_P(AnswerRuleTest, WrongAnswersStayWithinTheBoundOver100000Requests) {
  const auto entropy = MakeSeededEntropy(11);
  constexpr int kEntries = 400, kRequests = 250;
  int wrong = 0, hits = 0;
  double off = 0;
  for (int entry = 0; entry < kEntries; ++entry) {
    const double threshold = 0.4 + 0.4 * Uniform(*entropy);
    AnswerRule rule;
    for (int i = 0; i < kRequests; ++i) {
      const double likeness = std::sqrt(Uniform(*entropy));
      const bool good = Uniform(*entropy) < Sigmoid(GetParam().steepness * (likeness - threshold));
      const bool hit = Uniform(*entropy) >= rule.TrialChance(likeness, GetParam().error);
      ASSERT_FALSE(hit && rule.seen() < AnswerRule::kLeast);
      hits += hit;
      wrong += hit && !good;
      if (!hit) rule.Note(likeness, good);
    }
    off += std::abs(rule.threshold() - threshold) / kEntries;
  }
  const double requests = kEntries * kRequests, share = wrong / requests;
  RecordProperty("wrong", std::to_string(share));
  RecordProperty("hits", std::to_string(hits / requests));
  RecordProperty("threshold_off", std::to_string(off));
  EXPECT_LE(share, GetParam().error + 3 * std::sqrt(GetParam().error / requests));
  EXPECT_GT(hits, 0);
  EXPECT_LT(off, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Worlds, AnswerRuleTest,
                         ::testing::Values(World{8, 0.01}, World{8, 0.05}, World{8, 0.2}, World{20, 0.01},
                                           World{20, 0.05}, World{20, 0.2}, World{1000, 0.01}, World{1000, 0.05}));

TEST(AnswerRuleTest, NeverTrustsBeforeSixComparisonsWhateverTheySaid) {
  for (const bool good : {true, false}) {
    AnswerRule rule;
    for (int64_t seen = 0; seen < AnswerRule::kLeast; ++seen) {
      for (const double likeness : {0.0, 0.5, 1.0}) EXPECT_EQ(rule.TrialChance(likeness, 0.2), 1);
      rule.Note(1, good);
    }
  }
}

TEST(AnswerRuleTest, AnAnswerThatNobodySharesServesNobody) {
  AnswerRule rule;
  for (int i = 0; i < 100; ++i) rule.Note(0.9, false);
  EXPECT_GT(rule.TrialChance(0.9, 0.05), 0.9);
}

TEST(AnswerRuleTest, AskingTheModelGetsLessLikelyWithLikenessAndWithTheBound) {
  const auto entropy = MakeSeededEntropy(3);
  for (int round = 0; round < 50; ++round) {
    AnswerRule rule;
    const double threshold = Uniform(*entropy);
    for (int i = 0; i < 60; ++i) {
      const double likeness = Uniform(*entropy);
      rule.Note(likeness, Uniform(*entropy) < Sigmoid(30 * (likeness - threshold)));
    }
    for (double error = 0.01; error < 0.2; error += 0.01) {
      EXPECT_LE(rule.TrialChance(0.9, error + 0.01), rule.TrialChance(0.9, error));
    }
    EXPECT_LE(rule.TrialChance(0.95, 0.05), rule.TrialChance(threshold * 0.5, 0.05) + 1e-9);
  }
}

TEST(AnswerRuleTest, ForgetsWhatNoLongerHolds) {
  AnswerRule rule;
  for (int i = 0; i < 1000; ++i) rule.Note(0.9, true);
  EXPECT_EQ(rule.TrialChance(0.9, 0.05), 0);
  for (int i = 0; i < 256; ++i) rule.Note(0.9, false);
  EXPECT_GT(rule.TrialChance(0.9, 0.05), 0.9);
}

}  // namespace
}  // namespace interlace
