#include "bench/serve/load_compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bench/serve/load_figures.h"
#include "bench/serve/load_interval.h"
#include "tests/bench_report/queue_model.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const CompareOptions kQuick = {.resamples = 200};

const MetricChange& Find(const LoadChange& load, absl::string_view metric) {
  for (const MetricChange& m : load.metrics) {
    if (m.metric == metric) return m;
  }
  ADD_FAILURE() << "no " << metric;
  return load.metrics[0];
}

std::vector<LoadRun> Seeds(const QueueModel& model, double rate, int seeds, int requests = 200) {
  std::vector<LoadRun> runs;
  for (int s = 1; s <= seeds; ++s) runs.push_back(model.Run(rate, static_cast<uint64_t>(s), requests));
  return runs;
}

TEST(Intervals, AreThoseOfTheTables) {
  const double values[] = {1, 2, 3, 4};
  const Interval t = TInterval(values, 0.95);  // t(3) = 3.182446, s = 1.290994
  EXPECT_DOUBLE_EQ(t.mean, 2.5);
  EXPECT_NEAR(t.low, 2.5 - 3.182446 * 1.290994 / 2, 1e-5);
  EXPECT_NEAR(t.high, 2.5 + 3.182446 * 1.290994 / 2, 1e-5);
  const auto entropy = MakeSeededEntropy(1);
  for (size_t n = 1; n < 50; ++n) {
    const std::vector<size_t> drawn = DrawBlocks(n, *entropy);
    ASSERT_EQ(drawn.size(), n);
    for (const size_t i : drawn) EXPECT_LT(i, n);
  }
}

TEST(CompareLoads, ARunIsAsGoodAsItself) {
  const QueueModel model;
  for (const int seeds : {1, 2, 5}) {
    const std::vector<LoadRun> runs = Seeds(model, 6, seeds);
    const absl::StatusOr<LoadComparison> c = CompareLoads(runs, runs, kQuick);
    ASSERT_TRUE(c.ok()) << c.status();
    ASSERT_EQ(c->loads.size(), 1u);
    EXPECT_EQ(c->loads[0].pairs, seeds);
    EXPECT_EQ(c->loads[0].interval, seeds >= 3 ? "t over 5 pairs" : "bootstrap over requests");
    EXPECT_FALSE(c->regressed());
    EXPECT_GE(c->loads[0].metrics.size(), 18u);
    for (const MetricChange& m : c->loads[0].metrics) {
      EXPECT_EQ(m.verdict, Change::kNone) << m.metric;
      EXPECT_NEAR(m.change, m.is_share ? 0 : 1, 1e-12) << m.metric;
      EXPECT_NEAR(m.a, m.b, 1e-12) << m.metric;
    }
  }
}

TEST(CompareLoads, FindsWhatGotWorseAndInWhichDirection) {
  const QueueModel before;
  QueueModel after = before;
  after.pace = before.pace * 1.3;
  for (const int seeds : {1, 2, 5}) {
    const std::vector<LoadRun> a = Seeds(before, 4, seeds), b = Seeds(after, 4, seeds);
    const absl::StatusOr<LoadComparison> worse = CompareLoads(a, b, kQuick);
    ASSERT_TRUE(worse.ok());
    const MetricChange& tpot = Find(worse->loads[0], "TPOT mean");
    EXPECT_EQ(tpot.verdict, Change::kWorse) << seeds;
    EXPECT_NEAR(tpot.change, 1.3, 0.06);
    EXPECT_LT(tpot.low, tpot.change);
    EXPECT_GT(tpot.high, tpot.change);
    EXPECT_TRUE(worse->regressed());
    const absl::StatusOr<LoadComparison> better = CompareLoads(b, a, kQuick);
    EXPECT_EQ(Find(better->loads[0], "TPOT mean").verdict, Change::kBetter);
    EXPECT_FALSE(better->regressed());
    // With more tolerance than the change it is none.
    EXPECT_FALSE(CompareLoads(a, b, {.tolerance = 0.9, .resamples = 200})->regressed());
  }
}

TEST(CompareLoads, ThroughputIsBetterWhenHigher) {
  QueueModel slow;
  slow.slots = 2;
  const QueueModel fast;
  const absl::StatusOr<LoadComparison> c = CompareLoads(Seeds(slow, 12, 3), Seeds(fast, 12, 3), kQuick);
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(Find(c->loads[0], "requests/s").verdict, Change::kBetter);
  EXPECT_EQ(Find(c->loads[0], "good share").verdict, Change::kBetter);
  EXPECT_GT(Find(c->loads[0], "good share").change, 0.3) << "a difference of shares";
  EXPECT_THAT(c->loads[0].doubts, testing::Contains(HasSubstr("A, seed 1: saturated")));
}

TEST(CompareLoads, SharesThatWereZeroCanGetWorse) {
  const QueueModel before;
  QueueModel after = before;
  after.fail_chance = 0.3;
  const absl::StatusOr<LoadComparison> c = CompareLoads(Seeds(before, 4, 1), Seeds(after, 4, 1), kQuick);
  ASSERT_TRUE(c.ok());
  const MetricChange& errors = Find(c->loads[0], "errors");
  EXPECT_EQ(errors.verdict, Change::kWorse);
  EXPECT_NEAR(errors.change, FiguresOf(after.Run(4, 1, 200)).error_rate, 1e-9);
  EXPECT_EQ(errors.a, 0);
}

// Without a true difference: seeds of the same model, compared with other seeds of it, are rarely called worse.
TEST(CompareLoads, DoesNotCryWolf) {
  const QueueModel model;
  int wolves = 0;
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<LoadRun> a, b;
    for (uint64_t s = 0; s < 5; ++s) {
      a.push_back(model.Run(4, 1 + s + 20 * static_cast<uint64_t>(trial), 100));
      b.push_back(model.Run(4, 1001 + s + 20 * static_cast<uint64_t>(trial), 100));
      b.back().seed = a.back().seed;
    }
    if (CompareLoads(a, b, kQuick)->regressed()) ++wolves;
  }
  EXPECT_LE(wolves, 3);
}

TEST(CompareLoads, PairsByLoadAndSeedWhateverTheLabel) {
  QueueModel before, after;
  before.label = "old";
  after.label = "new";
  std::vector<LoadRun> a = {before.Run(2, 1, 50), before.Run(4, 1, 50), before.Run(4, 2, 50), before.Run(8, 9, 50)};
  std::vector<LoadRun> b = {after.Run(4, 2, 50), after.Run(4, 1, 50), after.Run(2, 1, 50), after.Run(5, 1, 50)};
  const absl::StatusOr<LoadComparison> c = CompareLoads(a, b, kQuick);
  ASSERT_TRUE(c.ok());
  ASSERT_EQ(c->loads.size(), 3u);
  EXPECT_EQ(c->loads[2].load, "all 2 loads");
  EXPECT_EQ(c->loads[2].interval, "t over 3 pairs");
  EXPECT_EQ(c->loads[0].load, "2 requests/s, fixed 256/32, poisson");
  EXPECT_EQ(c->loads[0].pairs, 1);
  EXPECT_EQ(c->loads[1].pairs, 2);
  EXPECT_THAT(c->unpaired, ElementsAre("A: 8 requests/s, fixed 256/32, poisson, seed 9 (old)",
                                       "B: 5 requests/s, fixed 256/32, poisson, seed 1 (new)"));
}

TEST(CompareLoads, LabelsThatBothFilesHaveStayTogether) {
  QueueModel fast, slow;
  fast.label = "fast";
  slow.label = "slow";
  slow.pace = 0.05;
  const std::vector<LoadRun> a = {fast.Run(2, 1, 80), slow.Run(2, 1, 80)}, b = {slow.Run(2, 1, 80), fast.Run(2, 1, 80)};
  const absl::StatusOr<LoadComparison> c = CompareLoads(a, b, kQuick);
  ASSERT_TRUE(c.ok());
  ASSERT_EQ(c->loads.size(), 2u);
  EXPECT_FALSE(c->regressed());
  EXPECT_NEAR(Find(c->loads[1], "TPOT mean").change, 1, 1e-12);
}

TEST(CompareLoads, SingleRunsOfDifferentLoadsAreComparedWithADoubt) {
  const QueueModel model;
  const absl::StatusOr<LoadComparison> c = CompareLoads({model.Run(2, 1, 50)}, {model.Run(3, 2, 60)}, kQuick);
  ASSERT_TRUE(c.ok());
  EXPECT_THAT(c->loads[0].doubts, testing::Contains(HasSubstr("the loads differ")));
  EXPECT_THAT(
      CompareLoads({model.Run(2, 1, 50), model.Run(4, 1, 50)}, {model.Run(3, 2, 60)}, kQuick).status().ToString(),
      HasSubstr("no run of A has the load and seed"));
}

TEST(CompareLoads, CountsEqualTexts) {
  std::vector<LoadRun> a = {QueueModel().Run(2, 1, 20)}, b = a;
  for (LoadRun* run : {&a[0], &b[0]}) {
    for (RequestRecord& r : run->records) r.text = absl::StrCat("answer ", r.index);
  }
  b[0].records[7].text = "another";
  const absl::StatusOr<LoadComparison> c = CompareLoads(a, b, kQuick);
  ASSERT_TRUE(c.ok());
  EXPECT_EQ(c->loads[0].texts_compared, 20);
  EXPECT_EQ(c->loads[0].texts_equal, 19);
}

TEST(CompareLoads, RunsThatAnsweredNothing) {
  QueueModel model;
  model.tokens = 1;
  std::vector<LoadRun> a = {model.Run(2, 1, 20)}, b = a;
  for (RequestRecord& r : b[0].records) {
    r.outcome = LoadOutcome::kNoConnection;
    r.chunks.clear();
    r.chunk_tokens.clear();
    r.completion_tokens = 0;
  }
  const absl::StatusOr<LoadComparison> c = CompareLoads(a, b, kQuick);
  ASSERT_TRUE(c.ok());
  EXPECT_TRUE(c->regressed());
  EXPECT_EQ(Find(c->loads[0], "requests/s").verdict, Change::kWorse);
  for (const MetricChange& m : c->loads[0].metrics) {
    EXPECT_TRUE(std::isfinite(m.low) && std::isfinite(m.high) && std::isfinite(m.change)) << m.metric;
  }
  a[0].records.clear();
  b[0].records.clear();
  EXPECT_TRUE(CompareLoads(a, b, kQuick).ok());
}

}  // namespace
}  // namespace interlace
