// The properties of docs/decisions/simulation.md, over seeds. Environment: INTERLACE_SIM_SEED=N replays one seed and
// says all that happens; INTERLACE_SIM_SEEDS=first,count runs other seeds than usual.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/log.h"
#include "tests/sim/shrink.h"
#include "tests/sim/simulation.h"

namespace interlace::sim {
namespace {

// The processes of a run, and which of them this one is: ctest runs the seeds in several at once.
struct Range {
  uint64_t first = 0, count = 20000;
};
Range SeedsOf() {
  Range range;
  if (const char* text = std::getenv("INTERLACE_SIM_SEEDS")) {
    const std::vector<std::string> parts = absl::StrSplit(text, ',');
    if (parts.size() == 2) {
      (void)absl::SimpleAtoi(parts[0], &range.first);
      (void)absl::SimpleAtoi(parts[1], &range.count);
    }
  }
  return range;
}

std::string FirstFailure(const Replay& replay) {
  const Outcome outcome = Simulate(Apply(replay.cut, DrawScenario(replay.seed)), replay.canary);
  return outcome.failures.empty() ? std::string() : outcome.failures[0];
}

bool Fails(const Replay& replay) {
  return !FailureOf([&] { return FirstFailure(replay); }).empty();
}

// What happened, in few words, and a command that shows it.
std::string Report(const Replay& failed, const std::string& what) {
  const Replay small = Shrink(failed, &Fails);
  const std::string still = FailureOf([&] { return FirstFailure(small); });
  return absl::StrCat("seed ", failed.seed, ": ", what, "\n  shrunk: ", still, "\n  replay: ", CommandOf(small), "\n");
}

class Quiet : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  }
  void TearDown() override { SetLogSink(nullptr, LogLevel::kInfo); }
};

using Replaying = Quiet;
TEST_F(Replaying, OneSeed) {
  const std::optional<Replay> replay = ReplayFromEnvironment();
  if (!replay) GTEST_SKIP() << "INTERLACE_SIM_SEED names no seed";
  const Outcome outcome = Simulate(Apply(replay->cut, DrawScenario(replay->seed)), replay->canary, /*verbose=*/true);
  for (const std::string& failure : outcome.failures) ADD_FAILURE() << failure;
}

// What many seeds reached, so that a simulation in which nothing happens does not pass. In memory that the processes
// share, so that a seed whose CHECK fails is known by its number.
struct Reached {
  uint64_t seed = 0;  // the one at hand
  bool failed = false;
  int64_t seeds = 0, events = 0, requests = 0, ok = 0, refused = 0, parks = 0, stale = 0, time_us = 0;
  int64_t plans = 0, losses = 0, adopted = 0, fetched = 0, failed_fetches = 0, streamed = 0, corrupt = 0, formings = 0,
          crashes = 0;
  int64_t codes[17] = {};
  double worst = 0;  // planned tokens by those that are needed, of calm seeds
};

void Count(const Outcome& outcome, Reached* reached) {
  const Ledger& ledger = outcome.ledger;
  ++reached->seeds;
  reached->events += outcome.events;
  reached->requests += outcome.requests;
  reached->ok += outcome.ok;
  reached->refused += outcome.refused;
  reached->parks += outcome.parks;
  reached->stale += outcome.stale;
  reached->time_us += absl::ToInt64Microseconds(outcome.time);
  reached->plans += ledger.plans;
  reached->losses += ledger.losses;
  reached->adopted += ledger.adopted_blocks;
  reached->fetched += ledger.fetched_blocks;
  reached->failed_fetches += ledger.failed_fetches;
  reached->streamed += ledger.streamed_reads;
  reached->corrupt += ledger.corrupt_frames;
  reached->formings += ledger.formings;
  reached->crashes += ledger.crashes;
  for (size_t c = 0; c < outcome.codes.size(); ++c) reached->codes[c] += outcome.codes[c];
}

Reached* Shared() {
  void* const memory = mmap(nullptr, sizeof(Reached), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return new (memory) Reached;
}

using Simulation = Quiet;

TEST_F(Simulation, EveryStreamIsTheModelsAndNothingIsLeft) {
  const Range range = SeedsOf();
  Reached* const reached = Shared();
  constexpr uint64_t kBatch = 1000;
  for (uint64_t begin = range.first; begin < range.first + range.count; begin += kBatch) {
    const uint64_t end = std::min(begin + kBatch, range.first + range.count);
    const std::string failure = FailureOf([&] {
      for (reached->seed = begin; reached->seed < end; ++reached->seed) {
        const Outcome outcome = Simulate(DrawScenario(reached->seed));
        Count(outcome, reached);
        if (!outcome.failures.empty()) return outcome.failures[0];
      }
      return std::string();
    });
    ASSERT_TRUE(failure.empty()) << Report({.seed = reached->seed}, failure);
  }
  std::printf(
      "%ld seeds: %ld events, %ld plans, %ld of %ld requests OK (%ld refused), %ld parks, %ld formings, %ld "
      "crashes, %ld losses of KV, %ld corrupt frames, %ld stale results, %ld blocks adopted, %ld fetched (%ld "
      "not), %ld streamed reads\n",
      reached->seeds, reached->events, reached->plans, reached->ok, reached->requests, reached->refused, reached->parks,
      reached->formings, reached->crashes, reached->losses, reached->corrupt, reached->stale, reached->adopted,
      reached->fetched, reached->failed_fetches, reached->streamed);
  if (range.count < 1000) return;
  const auto some = static_cast<int64_t>(range.count) / 1000;  // at least one in a thousand seeds
  EXPECT_GT(reached->plans, 20 * reached->seeds);
  EXPECT_GT(reached->ok, reached->requests / 2);
  for (const int64_t count : {reached->parks, reached->crashes, reached->losses, reached->corrupt, reached->stale,
                              reached->adopted, reached->fetched, reached->failed_fetches, reached->streamed,
                              reached->refused, reached->formings - reached->seeds}) {
    EXPECT_GE(count, some);
  }
  for (const absl::StatusCode code :
       {absl::StatusCode::kCancelled, absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kUnavailable,
        absl::StatusCode::kDataLoss, absl::StatusCode::kAborted, absl::StatusCode::kInvalidArgument}) {
    EXPECT_GE(reached->codes[static_cast<size_t>(code)], some / 4) << absl::StatusCodeToString(code);
  }
}

TEST_F(Simulation, SameSeedSameTrace) {
  for (uint64_t seed = 0; seed < 20000; seed += 50) {
    const Scenario scenario = DrawScenario(seed);
    const Outcome first = Simulate(scenario), second = Simulate(scenario);
    ASSERT_EQ(first.events, second.events) << "seed " << seed;
    ASSERT_EQ(first.digest, second.digest) << "seed " << seed;
  }
}

// ---- planted bugs

class Canaries : public Quiet, public testing::WithParamInterface<int32_t> {};

TEST_P(Canaries, AreFound) {
  constexpr uint64_t kMostSeeds = 10000;
  const auto canary = static_cast<Canary>(GetParam());
  Reached* const reached = Shared();
  const std::string failure = FailureOf([&] {
    for (reached->seed = 0; reached->seed < kMostSeeds; ++reached->seed) {
      const std::string found = FirstFailure({.seed = reached->seed, .canary = canary});
      if (!found.empty()) return found;
    }
    return std::string();
  });
  EXPECT_FALSE(failure.empty()) << CanaryName(canary) << " lives through " << kMostSeeds << " seeds";
  std::printf("%s: found by seed %lu: %s\n", CanaryName(canary), reached->seed, failure.substr(0, 160).c_str());
}

INSTANTIATE_TEST_SUITE_P(All, Canaries, testing::Range(1, kCanaries),
                         [](const testing::TestParamInfo<int32_t>& canary) {
                           std::string name = CanaryName(static_cast<Canary>(canary.param));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// ---- efficiency

// Whether all requests fit into device and host together, so that whoever gives way loses no whole block.
bool HoldsAll(const Scenario& scenario) {
  const Shape& shape = scenario.shape;
  int64_t blocks = 0;
  for (const Arrival& arrival : scenario.arrivals) {
    const auto tokens = static_cast<int64_t>(arrival.prompt.size()) + arrival.max_tokens;
    blocks += (tokens + shape.block_tokens - 1) / shape.block_tokens;
  }
  const int64_t layers = (shape.layers() + shape.stages - 1) / shape.stages;  // of the largest stage
  return shape.frames >= blocks * layers;
}

// What a run without pressure needs is each position of each request once. A request that ends by a stop token has a
// position more in flight on each stage, and one that gives way loses what is not sealed: its last block, and what is in
// flight.
TEST_F(Simulation, PressureCostsLittle) {
  int64_t planned = 0, needed = 0, seeds = 0, parks = 0;
  for (uint64_t seed = 0; seed < 12000; ++seed) {
    const Scenario scenario = DrawScenario(seed);
    if (!scenario.calm() || scenario.options.draft_tokens > 0) continue;
    if (scenario.policy->name == "fcfs") continue;  // who gives way computes again: that is what it is for
    const Outcome outcome = Simulate(scenario);
    ASSERT_TRUE(outcome.failures.empty()) << "seed " << seed << ": " << outcome.failures[0];
    ++seeds;
    planned += outcome.ledger.planned_tokens;
    needed += outcome.needed_tokens;
    parks += outcome.parks;
    const int64_t each = HoldsAll(scenario) ? scenario.shape.block_tokens + scenario.shape.stages : scenario.options.context;
    const double most = 1.05 * static_cast<double>(outcome.needed_tokens) + static_cast<double>(outcome.ok * scenario.shape.stages) +
                        static_cast<double>(outcome.parks * each);
    EXPECT_LE(static_cast<double>(outcome.ledger.planned_tokens), most)
        << "seed " << seed << ", " << outcome.parks << " parks, " << (HoldsAll(scenario) ? "all fit" : "not all fit");
  }
  EXPECT_GT(parks, seeds / 20) << "there is no pressure: this shows nothing";
  EXPECT_LE(static_cast<double>(planned), 1.05 * static_cast<double>(needed));
  std::printf("%ld calm seeds: %ld tokens planned, %ld needed (%.3f), %ld parks\n", seeds, planned, needed,
              static_cast<double>(planned) / static_cast<double>(needed), parks);
}

// Two prompts of 70 % of the pool each, as soon as they come and one after the other. A block of a layer is copied in a
// tenth of the time in which the layer computes a row.
TEST_F(Simulation, TwoThatDoNotFitTogetherTakeAsLongAsOneAfterTheOther) {
  for (const int32_t stages : {1, 2}) {
    for (const int32_t frames : {0, 1000}) {
      Scenario scenario;
      scenario.seed = 1;
      scenario.shape.stages = stages;
      scenario.shape.windows = {0, 0, 0, 0};
      scenario.shape.slots = 40 * 4 / stages;  // 40 blocks
      scenario.shape.frames = frames;
      scenario.pace.row = absl::Microseconds(20);
      scenario.pace.copy = absl::Microseconds(4);  // at most; half of it on average
      scenario.options.context = 200;
      scenario.options.chunk_tokens = 16;
      for (int32_t i = 0; i < 2; ++i) {
        Arrival& arrival = scenario.arrivals.emplace_back();
        arrival.index = i;
        arrival.id = static_cast<uint64_t>(i) + 1;
        arrival.prompt.resize(108, i + 1);  // 27 blocks, and one that grows
        arrival.max_tokens = 4;
      }
      Scenario later = scenario;
      later.arrivals[1].at = absl::Seconds(1);
      const Outcome together = Simulate(scenario), apart = Simulate(later);
      ASSERT_TRUE(together.failures.empty()) << together.failures[0];
      ASSERT_TRUE(apart.failures.empty()) << apart.failures[0];
      ASSERT_EQ(together.ok + apart.ok, 4);
      EXPECT_EQ(together.ledger.planned_tokens, apart.ledger.planned_tokens) << "something is computed twice";
      const absl::Duration one_after_the_other = 2 * (apart.last_end - absl::Seconds(1));
      EXPECT_LE(together.last_end, 1.1 * one_after_the_other) << stages << " stages, " << frames << " frames";
      std::printf("%d stages, %4d frames: together %s, one after the other %s\n", stages, frames,
                  absl::FormatDuration(together.last_end).c_str(), absl::FormatDuration(one_after_the_other).c_str());
    }
  }
}

}  // namespace
}  // namespace interlace::sim
