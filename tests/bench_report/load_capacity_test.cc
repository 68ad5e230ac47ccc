#include "bench/serve/load_capacity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "tests/bench_report/queue_model.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Figures as FindCapacity reads them.
LoadFigures Seen(double share, bool valid = true) {
  LoadFigures f;
  f.has_targets = true;
  f.judged = f.requests = 1000;
  f.good_share = share;
  f.valid = valid;
  f.invalid_because = valid ? "" : "the client sent late";
  f.ttft.count = 1000;
  return f;
}

TEST(FindCapacity, FindsAKnownCapacityFromAnyStart) {
  for (const double capacity : {0.013, 0.9, 1.0, 37.0, 4200.0}) {
    for (const double start : {0.01, 1.0, 500.0}) {
      for (const double resolution : {0.2, 0.05, 0.01}) {
        const CapacityOptions options = {.start_rate = start, .resolution = resolution};
        int runs = 0;
        const absl::StatusOr<CapacityResult> r = FindCapacity(
            options,
            [&](double rate, uint64_t) {
              ++runs;
              return Seen(rate <= capacity ? 1.0 : 0.5);
            },
            nullptr);
        ASSERT_TRUE(r.ok()) << r.status();
        EXPECT_LE(r->low, capacity);
        EXPECT_GT(r->high, capacity);
        EXPECT_LE(r->high / r->low - 1, resolution + 1e-9);
        EXPECT_DOUBLE_EQ(r->rate, r->low);
        EXPECT_FALSE(r->at_least);
        EXPECT_LE(runs, std::abs(std::log2(capacity / start)) + std::log2(1 / resolution) + 4);
        EXPECT_EQ(r->steps.size(), static_cast<size_t>(runs));
      }
    }
  }
}

TEST(FindCapacity, SaysWhenEvenTheMostHoldsOrTheLeastFails) {
  absl::StatusOr<CapacityResult> r = FindCapacity(
      {.most_rate = 50}, [](double, uint64_t) { return Seen(1); }, nullptr);
  ASSERT_TRUE(r.ok());
  EXPECT_TRUE(r->at_least);
  EXPECT_DOUBLE_EQ(r->rate, 50);
  EXPECT_THAT(r->stopped_because, HasSubstr("50 requests/s, the most, holds"));

  r = FindCapacity(
      {.least_rate = 0.25}, [](double, uint64_t) { return Seen(0.5); }, nullptr);
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(r->rate, 0);
  EXPECT_EQ(r->high, 0.25);
  EXPECT_THAT(r->stopped_because, HasSubstr("not even 0.25 requests/s holds"));
}

TEST(FindCapacity, AnOverSaturatedRunFailsWhateverItsShare) {
  const absl::StatusOr<CapacityResult> r = FindCapacity(
      {},
      [](double rate, uint64_t) {
        LoadFigures f = Seen(1);  // those that ended before the run was stopped met their targets
        f.over_saturated = rate > 6;
        return f;
      },
      nullptr);
  ASSERT_TRUE(r.ok());
  EXPECT_LE(r->low, 6);
  EXPECT_GT(r->high, 6);
  EXPECT_THAT(r->steps[3].why, HasSubstr("stopped as over-saturated"));
}

TEST(FindCapacity, ALateClientIsNotBlamedOnTheServer) {
  const absl::StatusOr<CapacityResult> r = FindCapacity(
      {}, [](double rate, uint64_t) { return Seen(rate <= 10 ? 1 : 0.2, rate <= 10); }, nullptr);
  ASSERT_TRUE(r.ok());
  EXPECT_TRUE(r->at_least);
  EXPECT_LE(r->rate, 10);
  EXPECT_GT(r->rate, 10 / 1.05);
  EXPECT_THAT(r->stopped_because, HasSubstr("requests/s the client itself is too late to tell"));
  EXPECT_THAT(r->steps[4].why, HasSubstr("fails, which says nothing about the server"));
  // A client that is late wherever one looks: three runs are enough to see it.
  const absl::StatusOr<CapacityResult> late = FindCapacity(
      {}, [](double, uint64_t) { return Seen(0.2, false); }, nullptr);
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(late->rate, 0);
  EXPECT_TRUE(late->at_least);
  EXPECT_EQ(late->steps.size(), 3u);
  EXPECT_THAT(late->steps[2].why, HasSubstr("given up"));
  // A server that answers nothing at all is to blame itself.
  const absl::StatusOr<CapacityResult> dead = FindCapacity(
      {},
      [](double rate, uint64_t) {
        LoadFigures f = Seen(rate <= 3 ? 1 : 0, rate <= 3);
        if (rate > 3) f.ttft.count = 0;
        return f;
      },
      nullptr);
  ASSERT_TRUE(dead.ok());
  EXPECT_FALSE(dead->at_least);
  EXPECT_LE(dead->low, 3);
}

TEST(FindCapacity, ExplainsEveryStep) {
  std::vector<std::string> whys;
  const absl::StatusOr<CapacityResult> r = FindCapacity(
      {.resolution = 0.5}, [](double rate, uint64_t) { return Seen(rate <= 2.5 ? 1 : 0.9); },
      [&](const CapacityStep& step) { whys.push_back(step.why); });
  ASSERT_TRUE(r.ok());
  ASSERT_EQ(whys.size(), 4u);
  EXPECT_EQ(whys[0], "100 % of 1000 requests met their targets, asked 99 %: holds; up to 2");
  EXPECT_EQ(whys[1], "100 % of 1000 requests met their targets, asked 99 %: holds; up to 4");
  EXPECT_EQ(whys[2], "90 % of 1000 requests met their targets, asked 99 %: fails; 2.828 is next, between 2 and 4");
  EXPECT_EQ(whys[3], "90 % of 1000 requests met their targets, asked 99 %: fails; found between 2 and 2.828");
}

TEST(FindCapacity, PassesErrorsOnAndRefusesNonsense) {
  const auto fine = [](double, uint64_t) { return Seen(1); };
  EXPECT_EQ(FindCapacity(
                {}, [](double, uint64_t) { return absl::UnavailableError("gone"); }, nullptr)
                .status(),
            absl::UnavailableError("gone"));
  EXPECT_THAT(FindCapacity({.attainment = 1.5}, fine, nullptr).status().ToString(), HasSubstr("attainment 1.5"));
  EXPECT_THAT(FindCapacity({.start_rate = 0}, fine, nullptr).status().ToString(), HasSubstr("start rate 0"));
  EXPECT_THAT(FindCapacity({.growth = 1}, fine, nullptr).status().ToString(), HasSubstr("growth 1"));
  EXPECT_THAT(FindCapacity({.resolution = std::nan("")}, fine, nullptr).status().ToString(), HasSubstr("resolution"));
  EXPECT_THAT(FindCapacity({.seeds = {}}, fine, nullptr).status().ToString(), HasSubstr("seeds"));
  EXPECT_THAT(FindCapacity(
                  {}, [](double, uint64_t) { return LoadFigures{}; }, nullptr)
                  .status()
                  .ToString(),
              HasSubstr("no request has a target"));
}

// Each seed has a capacity of its own around the true one: the interval holds the truth about as often as it says.
TEST(FindCapacity, ItsIntervalHoldsTheTruth) {
  int held = 0;
  constexpr int kTrials = 200;
  for (int trial = 0; trial < kTrials; ++trial) {
    const double truth = std::exp(0.02 * trial - 1);
    const CapacityOptions options = {.resolution = 0.01, .seeds = {1, 2, 3, 4, 5}};
    const absl::StatusOr<CapacityResult> r = FindCapacity(
        options,
        [&](double rate, uint64_t seed) {
          std::mt19937_64 random(seed * 1000 + static_cast<uint64_t>(trial));
          const double own = truth * std::exp(std::normal_distribution<double>(0, 0.1)(random));
          return Seen(rate <= own ? 1 : 0.8);
        },
        nullptr);
    ASSERT_TRUE(r.ok());
    EXPECT_LT(r->low, r->rate);
    EXPECT_GT(r->high, r->rate);
    if (r->low <= truth && truth <= r->high) ++held;
  }
  EXPECT_GE(held, kTrials * 90 / 100);
  EXPECT_LE(held, kTrials * 99 / 100) << "an interval that always holds is too wide";
}

// Against a queue: below the rate at which its slots are all taken, and near it, since targets are mild.
TEST(FindCapacity, OfAQueueIsBelowItsServiceRate) {
  for (const int slots : {1, 4, 16}) {
    QueueModel model;
    model.slots = slots;
    model.stall_chance = 0;
    const CapacityOptions options = {.attainment = 0.95, .seeds = {1, 2, 3}};
    int runs = 0;
    const absl::StatusOr<CapacityResult> r = FindCapacity(
        options,
        [&](double rate, uint64_t seed) {
          ++runs;
          return FiguresOf(model.Run(rate, seed, 400));
        },
        nullptr);
    ASSERT_TRUE(r.ok()) << r.status();
    EXPECT_LT(r->rate, 1.1 * model.Capacity()) << slots << " slots";
    EXPECT_GT(r->rate, 0.4 * model.Capacity()) << slots << " slots";
    EXPECT_LE(runs, 30) << "later seeds begin where the first ended";
  }
}

}  // namespace
}  // namespace interlace
