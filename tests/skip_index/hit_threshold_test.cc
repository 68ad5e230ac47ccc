// How far an entry is trusted: it is right about prompts as often as it promises, whatever prompts come.
#include "coordinator/skip_index/hit_threshold.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "coordinator/skip_index/acceptance.h"
#include "tests/skip_index/key_cloud.h"

namespace interlace {
namespace {

TEST(AcceptanceTest, ItsBoundsHoldTheTruthAsOftenAsTheySay) {
  const auto entropy = MakeSeededEntropy(1);
  for (const double truth : {0.1, 0.5, 0.9}) {
    int below = 0, above = 0;
    constexpr int kRuns = 4000;
    for (int run = 0; run < kRuns; ++run) {
      Acceptance acceptance;
      for (int i = 0; i < 60; ++i) acceptance.Note(1, Uniform(*entropy) < truth ? 1 : 0);
      below += acceptance.Lower() > truth ? 1 : 0;
      above += acceptance.Upper() < truth ? 1 : 0;
    }
    EXPECT_LT(below, kRuns * 0.08) << truth;
    EXPECT_LT(above, kRuns * 0.08) << truth;
  }
}

TEST(AcceptanceTest, NothingTriedSaysNothingAndTheOldFades) {
  Acceptance acceptance;
  EXPECT_EQ(acceptance.Lower(), 0);
  EXPECT_EQ(acceptance.Upper(), 1);
  acceptance.Note(5000, 5000);
  EXPECT_GT(acceptance.Lower(), 0.99);
  acceptance.Note(512, 0);
  EXPECT_LT(acceptance.Upper(), 0.6);
}

TEST(HitThresholdTest, AFewUsesAreNotCountedOn) {
  HitThreshold threshold;
  for (int32_t i = 0; i < HitThreshold::kLeast; ++i) {
    EXPECT_EQ(threshold.TrialChance(1), 1);
    threshold.Note({0.9F, true});
  }
  EXPECT_LT(threshold.TrialChance(1), 1);
}

TEST(HitThresholdTest, MoreLikeIsNeverTrustedLess) {
  const auto entropy = MakeSeededEntropy(2);
  for (int run = 0; run < 200; ++run) {
    HitThreshold threshold;
    const double truth = Uniform(*entropy);
    for (int i = 0; i < 20; ++i) {
      const auto likeness = static_cast<float>(Uniform(*entropy));
      threshold.Note({likeness, Uniform(*entropy) < 1 / (1 + std::exp(-30 * (likeness - truth)))});
    }
    double before = 1;
    for (int i = 0; i <= 20; ++i) {
      const double chance = threshold.TrialChance(i / 20.0);
      EXPECT_LE(chance, before + 1e-9) << run << " " << i;
      EXPECT_GE(chance, 0);
      before = chance;
    }
  }
}

// vCache's promise: of all prompts, those that an entry is counted on for and that it serves badly are at most
// kMostWrong, whether good and bad uses overlap or not.
TEST(HitThresholdTest, BadHitsAreBounded) {
  const auto entropy = MakeSeededEntropy(3);
  for (const double steepness : {1000.0, 20.0, 6.0}) {
    int64_t uses = 0, hits = 0, bad = 0;
    for (int entry = 0; entry < 200; ++entry) {
      HitThreshold threshold;
      const double truth = 0.1 + 0.8 * Uniform(*entropy);
      for (int use = 0; use < 500; ++use) {
        const double likeness = Uniform(*entropy);
        const bool good = Uniform(*entropy) < 1 / (1 + std::exp(-steepness * (likeness - truth)));
        const bool hit = Uniform(*entropy) >= threshold.TrialChance(likeness);
        ++uses;
        hits += hit ? 1 : 0;
        bad += hit && !good ? 1 : 0;
        threshold.Note({static_cast<float>(likeness), good});
      }
    }
    EXPECT_LT(bad, uses * HitThreshold::kMostWrong) << steepness;
    EXPECT_GT(hits, uses / 10) << steepness << ": it trusts nobody";
  }
}

TEST(HitThresholdTest, WhatIsNeverGoodIsNeverCountedOn) {
  HitThreshold threshold;
  for (int i = 0; i < 32; ++i) threshold.Note({0.2F + 0.02F * static_cast<float>(i), false});
  EXPECT_EQ(threshold.good(), 0);
  for (const double likeness : {0.0, 0.5, 0.9}) EXPECT_GT(threshold.TrialChance(likeness), 0.85) << likeness;
}

}  // namespace
}  // namespace interlace
