// Small clusters in virtual time.
#include "bench/policy/scale_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "bench/policy/scale_report.h"
#include "common/entropy.h"
#include "common/log.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

// Conversations whose turns begin with all that was said before, mixed in time.
std::vector<TraceRow> Conversations(uint64_t seed, int conversations, int turns) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
  const auto draw = [&](uint64_t most) { return static_cast<int32_t>(entropy->Next() % most); };
  std::vector<TraceRow> rows;
  for (int turn = 0; turn < turns; ++turn) {
    for (int c = 0; c < conversations; ++c) {
      TraceRow& row = rows.emplace_back();
      row.due = absl::Milliseconds(1000 * turn + 1000 * c / conversations);
      row.input = 512 * (2 * turn + 2) - draw(400);
      row.output = 20 + draw(100);
      for (int b = 0; b < 2 * turn + 2; ++b) row.blocks.push_back(c * 1000 + b);
      row.blocks.back() += 500;  // cut off there: the next turn's block is another one
    }
  }
  return rows;
}

ScaleSetup SetupFor(const char* policy, int32_t replicas) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  ScaleSetup setup;
  setup.model = *FindScaleModel("llama-3.1-8b");
  setup.replicas = replicas;
  setup.policy = *FindPolicy(policy);
  setup.route = *FindRoutingPolicy("prefix");
  setup.options.context = 1 << 20;
  setup.options.chunk_tokens = setup.options.step_tokens = 2048;
  setup.options.max_running = 256;
  setup.options.rank_timeout = absl::InfiniteDuration();
  setup.targets.ttft = absl::Seconds(1);
  setup.targets.tpot = absl::Milliseconds(50);
  return setup;
}

TEST(ScaleRun, EveryRequestEndsWithAllItsTokens) {
  const std::vector<TraceRow> rows = Conversations(1, 12, 4);
  for (const char* policy : {"fcfs", "swap", "layerkv", "slack"}) {
    ScaleSetup setup = SetupFor(policy, 2);
    setup.device.memory = 22e9;  // less than all requests at once need
    const ScaleLoad load = LoadOf(rows, rows.size(), 40, setup.trace_block);
    const absl::StatusOr<ScaleOutcome> outcome = RunAtScale(setup, load);
    ASSERT_OK(outcome);
    for (size_t i = 0; i < rows.size(); ++i) {
      const ScaleRecord& r = outcome->records[i];
      EXPECT_TRUE(r.ok) << policy << " request " << i;
      EXPECT_EQ(r.tokens, rows[i].output) << policy << " request " << i;
      EXPECT_LE(r.cached, r.prompt);
      EXPECT_GT(r.first, r.due);
      EXPECT_GE(r.last, r.first);
      EXPECT_LE(r.last, outcome->elapsed);
    }
    EXPECT_EQ(FiguresOf(*outcome, setup).failed, 0);
  }
}

TEST(ScaleRun, TheSameRunGivesTheSameTimes) {
  const std::vector<TraceRow> rows = Conversations(2, 10, 3);
  const ScaleSetup setup = SetupFor("slack", 3);
  const ScaleLoad load = LoadOf(rows, 60, 60, setup.trace_block);
  const ScaleOutcome a = *RunAtScale(setup, load), b = *RunAtScale(setup, load);
  for (size_t i = 0; i < a.records.size(); ++i) {
    EXPECT_EQ(a.records[i].first, b.records[i].first) << i;
    EXPECT_EQ(a.records[i].last, b.records[i].last) << i;
    EXPECT_EQ(a.records[i].replica, b.records[i].replica) << i;
  }
}

// One at a time on one replica with room for all: a prompt finds all that came before it, in whole blocks of KV.
TEST(ScaleRun, HitsReachTheCeiling) {
  const std::vector<TraceRow> rows = Conversations(3, 8, 4);
  const ScaleSetup setup = SetupFor("slack", 1);
  const ScaleLoad load = LoadOf(rows, rows.size(), 0.2, setup.trace_block);
  const ScaleFigures figures = FiguresOf(*RunAtScale(setup, load), setup);
  EXPECT_GT(load.hit_ceiling, 0.3);
  EXPECT_NEAR(figures.hit_rate, load.hit_ceiling, 0.01);
}

TEST(ScaleRun, PrefixRoutingFindsMoreThanTakingTurns) {
  const std::vector<TraceRow> rows = Conversations(4, 15, 5);
  ScaleSetup setup = SetupFor("slack", 4);
  const ScaleLoad load = LoadOf(rows, rows.size(), 20, setup.trace_block);
  setup.route = *FindRoutingPolicy("round_robin");
  const ScaleFigures turns = FiguresOf(*RunAtScale(setup, load), setup);
  setup.route = *FindRoutingPolicy("prefix");
  const ScaleFigures prefix = FiguresOf(*RunAtScale(setup, load), setup);
  EXPECT_GT(prefix.hit_rate, turns.hit_rate + 0.1);
  EXPECT_LE(prefix.hit_rate, load.hit_ceiling);
  for (const ScaleFigures& figures : {turns, prefix}) {
    const ScaleMisses& m = figures.misses;
    const double missed = m.cut + m.gone + m.scattered + m.elsewhere + m.coming + m.lost - m.gained;
    EXPECT_NEAR(missed, load.hit_ceiling - figures.hit_rate, 1e-9) << "every token of the ceiling has its cause";
  }
  EXPECT_GT(turns.misses.elsewhere, prefix.misses.elsewhere + 0.1) << "taking turns passes by who holds a prefix";
}

TEST(ScaleRun, PromptsAndAnswersApartLoseNothingAndSpareStreamsTheStepsOfPrompts) {
  const std::vector<TraceRow> rows = Conversations(5, 20, 5);
  ScaleSetup setup = SetupFor("slack", 4);
  setup.tier_bandwidth = 25e9;
  const ScaleLoad load = LoadOf(rows, rows.size(), 30, setup.trace_block);
  const ScaleOutcome together = *RunAtScale(setup, load);
  setup.prefill = 2;
  const ScaleOutcome apart = *RunAtScale(setup, load);
  for (size_t i = 0; i < rows.size(); ++i) {
    const ScaleRecord& r = apart.records[i];
    EXPECT_TRUE(r.ok) << i;
    EXPECT_EQ(r.tokens, rows[i].output) << i;
    EXPECT_TRUE(!r.handed || r.replica >= setup.prefill) << "an answer that went back to a replica for prompts: " << i;
  }
  EXPECT_EQ(FiguresOf(together, setup).handed, 0);
  EXPECT_GT(FiguresOf(apart, setup).handed, 0.5);
  EXPECT_LT(FiguresOf(apart, setup).tpot.p99, FiguresOf(together, setup).tpot.p99);
  const ScaleOutcome again = *RunAtScale(setup, load);
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(apart.records[i].last, again.records[i].last) << i;
}

TEST(ScaleRun, WithoutATierOrAnybodyToDecodePromptsAreNotComputedApart) {
  const std::vector<TraceRow> rows = Conversations(6, 2, 1);
  ScaleSetup setup = SetupFor("slack", 2);
  const ScaleLoad load = LoadOf(rows, rows.size(), 1, setup.trace_block);
  setup.prefill = 1;
  EXPECT_THAT(RunAtScale(setup, load).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("--tier-gb")));
  setup.tier_bandwidth = 25e9;
  EXPECT_OK(RunAtScale(setup, load).status());
  setup.prefill = 2;
  EXPECT_THAT(RunAtScale(setup, load).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("must decode")));
}

TEST(ScaleRun, WhatCannotFitIsSaidBeforehand) {
  ScaleSetup setup = SetupFor("slack", 1);
  setup.device.memory = 19e9;
  const std::vector<TraceRow> rows = {{.due = {}, .input = 100000, .output = 1, .blocks = {}}};
  EXPECT_THAT(RunAtScale(setup, LoadOf(rows, 1, 1, 512)).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, testing::HasSubstr("--devices")));
  setup.device.memory = 10e9;
  EXPECT_THAT(RunAtScale(setup, LoadOf(rows, 1, 1, 512)).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, testing::HasSubstr("weights")));
}

}  // namespace
}  // namespace interlace
