#include "bench/serve/load_figures.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/bench_report/queue_model.h"

namespace interlace {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::Optional;

constexpr double kNear = 1e-9;

// A request sent at `sent` whose tokens came at these times; all in milliseconds since the run began.
RequestRecord Answer(int sent, std::vector<int> chunks, LoadOutcome outcome = LoadOutcome::kOk) {
  RequestRecord r;
  r.due = r.sent = absl::Milliseconds(sent);
  for (const int at : chunks) {
    r.chunks.push_back(absl::Milliseconds(at));
    r.chunk_tokens.push_back(1);
  }
  r.completion_tokens = static_cast<int32_t>(chunks.size());
  r.ended = absl::Milliseconds(chunks.empty() ? sent + 5 : chunks.back() + 1);
  r.outcome = outcome;
  r.prompt_tokens = 10;
  return r;
}

LoadRun RunOf(std::vector<RequestRecord> records) {
  LoadRun run;
  run.offered_rate = 1;
  for (const RequestRecord& r : records) run.elapsed = std::max(run.elapsed, r.ended);
  run.records = std::move(records);
  return run;
}

TEST(Distribution, IsNumpys) {
  // numpy.percentile([4, 1, 3, 2, 10], [50, 90, 95, 99]), mean and std of the same.
  const Distribution d = DistributionOf({4, 1, 3, 2, 10});
  EXPECT_EQ(d.count, 5);
  EXPECT_NEAR(d.mean, 4, kNear);
  EXPECT_NEAR(d.std, 3.1622776601683795, kNear);
  EXPECT_NEAR(d.p50, 3, kNear);
  EXPECT_NEAR(d.p90, 7.6, kNear);
  EXPECT_NEAR(d.p95, 8.8, kNear);
  EXPECT_NEAR(d.p99, 9.76, kNear);
  EXPECT_EQ(d.max, 10);
  EXPECT_EQ(DistributionOf({}).count, 0);
  EXPECT_EQ(DistributionOf({7}).p99, 7);
}

TEST(RequestFigures, OfAWholeAnswer) {
  const RequestFigures f = FiguresOfRequest(Answer(100, {150, 170, 230, 250}));
  EXPECT_THAT(f.ttft, Optional(DoubleNear(0.050, kNear)));
  EXPECT_THAT(f.second_token, Optional(DoubleNear(0.070, kNear)));
  EXPECT_THAT(f.tpot, Optional(DoubleNear(0.100 / 3, kNear)));
  EXPECT_THAT(f.largest_gap, Optional(DoubleNear(0.060, kNear)));
  EXPECT_THAT(f.e2el, Optional(DoubleNear(0.150, kNear)));
  EXPECT_THAT(f.normalised, Optional(DoubleNear(0.150 / 4, kNear)));
  EXPECT_EQ(f.output_tokens, 4);
  EXPECT_TRUE(f.good);
}

TEST(RequestFigures, AnAnswerWithoutTokensHasNoTtftButAnEnd) {
  const RequestFigures f = FiguresOfRequest(Answer(100, {}));
  EXPECT_FALSE(f.ttft || f.second_token || f.tpot || f.largest_gap || f.normalised);
  EXPECT_THAT(f.e2el, Optional(DoubleNear(0.005, kNear)));
  EXPECT_TRUE(f.good);
}

TEST(RequestFigures, OneTokenHasNoPaceAndIsNotCountedAsZero) {
  RequestRecord r = Answer(100, {150});
  r.targets.tpot = absl::Milliseconds(1);
  const RequestFigures f = FiguresOfRequest(r);
  EXPECT_FALSE(f.tpot || f.second_token || f.largest_gap);
  EXPECT_FALSE(f.met_tpot.has_value());
  EXPECT_TRUE(f.good) << "nothing of it missed a target";
  EXPECT_EQ(FiguresOf(RunOf({r})).tpot.count, 0);
}

TEST(RequestFigures, DeliveriesOfSeveralTokens) {
  RequestRecord r = Answer(0, {100, 200});
  r.chunk_tokens = {3, 2};
  r.completion_tokens = 5;
  const RequestFigures f = FiguresOfRequest(r);
  EXPECT_THAT(f.second_token, Optional(DoubleNear(0.1, kNear))) << "it came with the first";
  EXPECT_THAT(f.tpot, Optional(DoubleNear(0.025, kNear)));
  EXPECT_THAT(GapsOf(r), ElementsAre(DoubleNear(0.1, kNear)));
  r = Answer(0, {100});
  r.chunk_tokens = {64};
  r.completion_tokens = 64;
  EXPECT_FALSE(FiguresOfRequest(r).tpot.has_value()) << "all at once shows no pace, and not that of 0";
}

TEST(RequestFigures, FailedAnswersHaveNoLatencies) {
  for (const LoadOutcome outcome :
       {LoadOutcome::kShed, LoadOutcome::kRefused, LoadOutcome::kFailed, LoadOutcome::kTruncated, LoadOutcome::kGarbage,
        LoadOutcome::kNoConnection, LoadOutcome::kTimeout}) {
    RequestRecord r = Answer(0, {10, 20}, outcome);
    r.targets.ttft = absl::Seconds(10);
    const RequestFigures f = FiguresOfRequest(r);
    EXPECT_FALSE(f.ttft || f.tpot || f.e2el || f.largest_gap) << LoadOutcomeName(outcome);
    EXPECT_THAT(f.met_ttft, Optional(false)) << LoadOutcomeName(outcome);
    EXPECT_TRUE(f.judged);
    EXPECT_FALSE(f.good) << LoadOutcomeName(outcome);
  }
}

TEST(RequestFigures, CancelledAnswersCountUntilTheyWereCancelled) {
  RequestRecord r = Answer(0, {10, 30}, LoadOutcome::kCancelled);
  r.targets.e2el = absl::Milliseconds(1);
  const RequestFigures f = FiguresOfRequest(r);
  EXPECT_TRUE(f.ttft && f.tpot && f.largest_gap);
  EXPECT_FALSE(f.e2el || f.normalised);
  EXPECT_FALSE(f.judged || f.good);
  EXPECT_FALSE(f.met_e2el.has_value());
}

TEST(LoadFigures, CountsEveryOutcomeAndDividesByTheWholeRun) {
  LoadRun run = RunOf({Answer(0, {100, 200, 400}), Answer(100, {300, 350}), Answer(200, {}, LoadOutcome::kShed),
                       Answer(300, {500}, LoadOutcome::kTruncated), Answer(400, {600, 700}, LoadOutcome::kCancelled),
                       Answer(500, {}, LoadOutcome::kNoConnection)});
  run.elapsed = absl::Seconds(2);
  run.records[0].cached_tokens = 5;
  run.records[1].shared_prefix_tokens = 9;
  const LoadFigures f = FiguresOf(run);
  EXPECT_EQ(f.requests, 6);
  EXPECT_EQ(f.completed(), 2);
  EXPECT_EQ(f.shed(), 1);
  EXPECT_EQ(f.cancelled(), 1);
  EXPECT_EQ(f.errors(), 2);
  EXPECT_NEAR(f.shed_rate, 1 / 6.0, kNear);
  EXPECT_NEAR(f.error_rate, 2 / 6.0, kNear);
  EXPECT_NEAR(f.request_throughput, 1, kNear);
  EXPECT_NEAR(f.input_throughput, 15, kNear);
  EXPECT_NEAR(f.output_throughput, 3.5, kNear) << "3 + 2 + 2 of the cancelled one";
  EXPECT_EQ(f.wasted_tokens, 1);
  EXPECT_EQ(f.peak_output_throughput, 8) << "every delivery was in the first second";
  EXPECT_EQ(f.ttft.count, 3);
  EXPECT_EQ(f.e2el.count, 2);
  EXPECT_EQ(f.itl.count, 4);
  EXPECT_NEAR(f.itl.max, 0.2, kNear);
  EXPECT_NEAR(f.hit_rate, 5 / 30.0, kNear);
  EXPECT_NEAR(f.hit_rate_ceiling, 9 / 30.0, kNear);
  EXPECT_FALSE(f.has_targets);
  EXPECT_EQ(f.judged, 5);
}

TEST(LoadFigures, GoodputAsksForAllTargetsOfEachRequest) {
  std::vector<RequestRecord> records = {Answer(0, {100, 150, 200}),  // meets all
                                        Answer(0, {600, 650, 700}),  // TTFT missed
                                        Answer(0, {100, 150, 900}),  // gap missed, and with it the pace
                                        Answer(0, {100}),            // no pace to judge
                                        Answer(0, {}, LoadOutcome::kShed)};
  for (RequestRecord& r : records) {
    r.targets = {
        .ttft = absl::Milliseconds(500), .tpot = absl::Milliseconds(100), .largest_gap = absl::Milliseconds(300)};
  }
  records.push_back(Answer(0, {5000, 9000}));  // asks for nothing
  LoadRun run = RunOf(records);
  run.elapsed = absl::Seconds(10);
  const LoadFigures f = FiguresOf(run);
  EXPECT_EQ(f.good, 3);
  EXPECT_NEAR(f.goodput, 0.3, kNear);
  EXPECT_NEAR(f.token_goodput, (3 + 1 + 2) / 10.0, kNear);
  EXPECT_NEAR(f.good_share, 0.5, kNear);
  EXPECT_EQ(f.met_ttft.asked, 5);
  EXPECT_EQ(f.met_ttft.met, 3);
  EXPECT_EQ(f.met_tpot.asked, 4) << "the one-token answer is not asked";
  EXPECT_EQ(f.met_tpot.met, 2);
  EXPECT_EQ(f.met_largest_gap.met, 2);
  EXPECT_EQ(f.met_e2el.asked, 0);
}

TEST(LoadFigures, ATargetIsMetAtItsExactValue) {
  RequestRecord r = Answer(0, {500, 600});
  r.targets = {.ttft = absl::Milliseconds(500), .largest_gap = absl::Milliseconds(100)};
  EXPECT_TRUE(FiguresOfRequest(r).good);
  r.targets.ttft = absl::Milliseconds(500) - absl::Nanoseconds(1);
  EXPECT_FALSE(FiguresOfRequest(r).good);
}

TEST(LoadFigures, PeakConcurrencyIsOfAnInstant) {
  // Two that touch and one that overlaps both.
  EXPECT_EQ(FiguresOf(RunOf({Answer(0, {99}), Answer(100, {199}), Answer(50, {149})})).peak_concurrency, 2);
}

TEST(LoadFigures, ALateClientMakesTheRunInvalid) {
  LoadRun run = RunOf({Answer(10, {110, 120}), Answer(20, {120, 130})});
  EXPECT_TRUE(FiguresOf(run).valid);
  run.records[0].due = run.records[0].sent - absl::Milliseconds(5);
  EXPECT_TRUE(FiguresOf(run).valid) << "p99 4.95 ms of 100 ms";
  run.records[0].due = run.records[0].sent - absl::Milliseconds(6);
  const LoadFigures f = FiguresOf(run);
  EXPECT_FALSE(f.valid);
  EXPECT_THAT(f.invalid_because, testing::HasSubstr("sent late"));
  EXPECT_FALSE(FiguresOf(RunOf({Answer(0, {}, LoadOutcome::kShed)})).valid);
  EXPECT_FALSE(FiguresOf(RunOf({})).valid);
}

TEST(LoadFigures, AGrowingQueueIsToldFromASteadyOne) {
  const QueueModel model;
  int seen = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    EXPECT_FALSE(FiguresOf(model.Run(0.5 * model.Capacity(), seed, 300)).saturated()) << "seed " << seed;
    EXPECT_TRUE(FiguresOf(model.Run(2 * model.Capacity(), seed, 300)).saturated()) << "seed " << seed;
    if (FiguresOf(model.Run(1.5 * model.Capacity(), seed, 300)).saturated()) ++seen;
  }
  EXPECT_GE(seen, 90) << "of 100 runs of 18 s at half more than the capacity";
}

// A server without a queue: what is open is what is being answered, however many that are and however short the run.
TEST(LoadFigures, ManyOpenRequestsAreNoQueue) {
  QueueModel model;
  model.slots = 100000;
  int grown = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    const double rate = 1 + static_cast<double>(seed % 50);
    if (FiguresOf(model.Run(rate, seed, static_cast<int>(rate * static_cast<double>(1 + seed % 7)))).saturated())
      ++grown;
  }
  EXPECT_LE(grown, 2);
}

// Whatever the log: counts add up, quantiles are in order, shares are shares, good ones are no more than those asked.
TEST(LoadFigures, HoldTogetherOnAnyLog) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    QueueModel model;
    model.shed_after = seed % 3 == 0 ? 0.5 : 0;
    model.fail_chance = 0.05 * static_cast<double>(seed % 4);
    model.cancel_chance = 0.1 * static_cast<double>(seed % 2);
    model.tokens = static_cast<int>(1 + seed % 5);
    const LoadRun run = model.Run((0.3 + 0.05 * static_cast<double>(seed)) * model.Capacity(), seed, 120);
    const LoadFigures f = FiguresOf(run);
    int64_t total = 0;
    for (const int64_t count : f.outcomes) total += count;
    EXPECT_EQ(total, f.requests);
    EXPECT_LE(f.good, f.completed());
    EXPECT_LE(f.goodput, f.request_throughput);
    EXPECT_LE(f.token_goodput, f.output_throughput);
    EXPECT_LE(f.peak_concurrency, f.requests);
    for (const LatencyMetric& metric : LatencyMetrics()) {
      const Distribution& d = f.*metric.field;
      if (d.count == 0) continue;
      EXPECT_LE(0, d.p50) << metric.name;
      EXPECT_LE(d.p50, d.p90);
      EXPECT_LE(d.p90, d.p95);
      EXPECT_LE(d.p95, d.p99);
      EXPECT_LE(d.p99, d.max);
      EXPECT_LE(d.mean, d.max);
    }
    if (model.tokens == 1) {
      EXPECT_EQ(f.tpot.count, 0);
    }
    EXPECT_LE(f.ttft.mean, f.e2el.count > 0 && f.cancelled() == 0 ? f.e2el.mean : 1e9);
  }
}

}  // namespace
}  // namespace interlace
