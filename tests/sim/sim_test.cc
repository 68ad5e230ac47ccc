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
  const Outcome outcome =
      Simulate(Apply(replay->cut, DrawScenario(replay->seed)), replay->canary, /*verbose=*/true);
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
  std::printf("%ld seeds: %ld events, %ld plans, %ld of %ld requests OK (%ld refused), %ld parks, %ld formings, %ld "
              "crashes, %ld losses of KV, %ld corrupt frames, %ld stale results, %ld blocks adopted, %ld fetched (%ld "
              "not), %ld streamed reads\n",
              reached->seeds, reached->events, reached->plans, reached->ok, reached->requests, reached->refused,
              reached->parks, reached->formings, reached->crashes, reached->losses, reached->corrupt, reached->stale,
              reached->adopted, reached->fetched, reached->failed_fetches, reached->streamed);
  if (range.count < 1000) return;
  const auto some = static_cast<int64_t>(range.count) / 1000;  // at least one in a thousand seeds
  EXPECT_GT(reached->plans, 20 * reached->seeds);
  EXPECT_GT(reached->ok, reached->requests / 2);
  for (const int64_t count : {reached->parks, reached->crashes, reached->losses, reached->corrupt, reached->stale,
                              reached->adopted, reached->fetched, reached->failed_fetches, reached->streamed,
                              reached->refused, reached->formings - reached->seeds}) {
    EXPECT_GE(count, some);
  }
  for (const absl::StatusCode code : {absl::StatusCode::kCancelled, absl::StatusCode::kDeadlineExceeded,
                                      absl::StatusCode::kUnavailable, absl::StatusCode::kDataLoss,
                                      absl::StatusCode::kAborted, absl::StatusCode::kInvalidArgument}) {
    EXPECT_GE(reached->codes[static_cast<size_t>(code)], some) << absl::StatusCodeToString(code);
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

using Canaries = Quiet;
TEST_F(Canaries, Rates) {
  for (int32_t c = 1; c < kCanaries; ++c) {
    const auto canary = static_cast<Canary>(c);
    int found = 0;
    int64_t first = -1;
    std::string what;
    for (uint64_t seed = 0; seed < 1000; ++seed) {
      const std::string f = FailureOf([&] { return FirstFailure({.seed = seed, .canary = canary}); });
      if (f.empty()) continue;
      ++found;
      if (first < 0) first = seed, what = f;
    }
    std::printf("%-24s %4d of 1000, first %ld: %s\n", CanaryName(canary), found, first, what.substr(0, 150).c_str());
    std::fflush(stdout);
  }
}
TEST_F(Simulation, Ratios) {
  std::vector<double> all;
  std::vector<std::pair<double, uint64_t>> worst;
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    const Scenario s = DrawScenario(seed);
    if (!s.calm() || s.options.draft_tokens > 0) continue;
    const Outcome o = Simulate(s);
const Outcome& a = o;
    if (o.needed_tokens == 0) continue;
    const double r = 1.0 * o.ledger.planned_tokens / o.needed_tokens;
    all.push_back(r);
    worst.push_back({r, seed});
    const double allowed = 1.05 * o.needed_tokens + o.parks * (s.shape.block_tokens + 1) + s.arrivals.size();
    if (o.ledger.planned_tokens > allowed) std::printf("%.0f blocks of %d ", o.ledger.planned_tokens - allowed, s.shape.block_tokens), std::printf("seed %lu: planned %ld needed %ld ample %ld (%d vs %d ok) parks %ld, slots %d frames %d keep %d\n", seed, o.ledger.planned_tokens, o.needed_tokens, a.ledger.planned_tokens, o.ok, a.ok, o.parks, s.shape.slots, s.shape.frames, s.options.fixed_keep);
  }
  std::sort(all.begin(), all.end());
  std::printf("%zu: median %.3f p99 %.3f max %.3f over1.05 %ld\n", all.size(), all[all.size()/2], all[all.size()*99/100], all.back(), (long)std::count_if(all.begin(), all.end(), [](double r) { return r > 1.05; }));
}

}  // namespace
}  // namespace interlace::sim
