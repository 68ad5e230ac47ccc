// The runner in virtual time: when requests are sent, whatever the server does.
#include "bench/serve/load_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/bench_serve/virtual_run.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

struct Rig {
  explicit Rig(LoadPlanSpec spec, VirtualClient::Server server, LoadRunnerOptions options = {})
      : plan(*LoadPlan::Make(spec)), client(loop, std::move(server)), runner(std::move(options), *plan, loop, client) {}
  VirtualLoop loop;
  std::unique_ptr<LoadPlan> plan;
  VirtualClient client;
  LoadRunner runner;
};

VirtualClient::Server Takes(absl::Duration first, absl::Duration end) {
  return [=](const PlannedRequest&, absl::Duration) { return VirtualAnswer{first, end}; };
}

LoadPlanSpec Poisson(double rate, int64_t requests, uint64_t seed = 1) {
  LoadPlanSpec spec;
  spec.arrivals.rate = rate;
  spec.requests = requests;
  spec.seed = seed;
  spec.dataset.input = {.a = 4};
  return spec;
}

TEST(LoadRunner, AnOpenLoopWaitsForNobody) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Rig rig(Poisson(10, 200, seed), Takes(absl::Hours(1), absl::Hours(2)), {.stop_when_saturated = false});
    const LoadRun run = rig.runner.Run();
    ASSERT_THAT(run.records, SizeIs(200));
    auto plan = *LoadPlan::Make(Poisson(10, 200, seed));
    for (const RequestRecord& record : run.records) {
      const absl::Duration planned = plan->Next()->front().due;
      EXPECT_EQ(record.due, planned);
      EXPECT_EQ(record.sent, planned) << "the clock is exact, so is the sender";
    }
    EXPECT_EQ(rig.client.most_open, 200u);
    EXPECT_EQ(run.duration, run.records.back().due - run.records.front().due);
    EXPECT_EQ(run.elapsed, run.records.back().ended);
    EXPECT_EQ(run.unsent, 0);
  }
}

TEST(LoadRunner, EveryOutcomeIsKept) {
  Rig rig(Poisson(10, 90), [](const PlannedRequest& request, absl::Duration) {
    return VirtualAnswer{absl::Seconds(1), absl::Seconds(2), static_cast<LoadOutcome>(request.index % 9)};
  });
  const LoadRun run = rig.runner.Run();
  ASSERT_THAT(run.records, SizeIs(90));
  for (const RequestRecord& record : run.records) {
    EXPECT_EQ(record.outcome, static_cast<LoadOutcome>(record.index % 9));
  }
}

TEST(LoadRunner, ABoundIsKeptAndItsWaitIsNoLag) {
  Rig rig(Poisson(100, 100), Takes(absl::Milliseconds(100), absl::Seconds(1)), {.concurrency = 3});
  const LoadRun run = rig.runner.Run();
  ASSERT_THAT(run.records, SizeIs(100));
  EXPECT_EQ(rig.client.most_open, 3u);
  for (const RequestRecord& record : run.records) EXPECT_EQ(record.sent, record.due);
  EXPECT_NEAR(absl::ToDoubleSeconds(run.elapsed), 100 / 3.0, 1.5);
}

TEST(LoadRunner, AClosedLoopHoldsItsConcurrency) {
  LoadPlanSpec spec = Poisson(1, 0);
  spec.arrivals.process = "closed";
  spec.duration = absl::Seconds(10);
  Rig rig(spec, Takes(absl::Milliseconds(100), absl::Seconds(1)), {.concurrency = 4, .duration = absl::Seconds(10)});
  const LoadRun run = rig.runner.Run();
  EXPECT_THAT(run.records, SizeIs(40)) << "four at a time, a second each";
  EXPECT_EQ(run.unsent, 0);
  EXPECT_EQ(rig.client.most_open, 4u);
  for (const RequestRecord& record : run.records) {
    EXPECT_LT(record.sent, absl::Seconds(10));
    EXPECT_EQ(record.sent, record.due);
  }
}

TEST(LoadRunner, ATurnFollowsTheOneBeforeAndKnowsWhatWasSaid) {
  LoadPlanSpec spec = Poisson(10, 30);
  spec.dataset.turns = 3;
  spec.dataset.think = absl::Seconds(2);
  Rig rig(spec, Takes(absl::Milliseconds(100), absl::Seconds(1)));
  const LoadRun run = rig.runner.Run();
  ASSERT_THAT(run.records, SizeIs(30));
  std::map<int64_t, const RequestRecord*> before;  // by session
  for (const RequestRecord& record : run.records) {
    if (record.turn > 0) {
      EXPECT_GT(record.due, before[record.session]->ended) << "the pause is drawn, and is not nothing";
      const RequestRecord& last = *before[record.session];
      EXPECT_EQ(record.shared_prefix_tokens, last.prompt_tokens + last.completion_tokens);
    }
    before[record.session] = &record;
  }
  for (const PlannedRequest& request : rig.client.sent) {
    ASSERT_THAT(request.messages, SizeIs(2 * request.turn + 1));
    for (size_t m = 0; m < request.messages.size(); ++m) {
      EXPECT_EQ(request.messages[m].first, m % 2 == 0 ? "user" : "assistant");
    }
    if (request.turn == 2) {
      EXPECT_EQ(request.messages[3].second, absl::StrCat("answer ", request.index - 1));
    }
  }
}

TEST(LoadRunner, ASessionEndsWithAnAnswerThatIsNone) {
  LoadPlanSpec spec = Poisson(10, 30);
  spec.dataset.turns = 3;
  Rig rig(spec, [](const PlannedRequest& request, absl::Duration) {
    return VirtualAnswer{absl::Seconds(1), absl::Seconds(2), request.turn == 1 ? LoadOutcome::kShed : LoadOutcome::kOk};
  });
  const LoadRun run = rig.runner.Run();
  EXPECT_THAT(run.records, SizeIs(20));
  EXPECT_EQ(run.unsent, 10);
}

TEST(LoadRunner, AServerWhoseQueueGrowsStopsTheRun) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Rig rig(Poisson(20, 4000, seed), VirtualQueue(0.1, seed + 100));
    const LoadRun run = rig.runner.Run();
    EXPECT_TRUE(run.over_saturated) << "seed " << seed;
    EXPECT_THAT(run.stopped_because, HasSubstr("over-saturated"));
    EXPECT_EQ(rig.client.hung_up, run.stopped_because);
    EXPECT_LT(run.elapsed, absl::Seconds(100)) << "of the 200 that were planned";
    EXPECT_EQ(static_cast<int64_t>(run.records.size()) + run.unsent, 4000);
  }
}

TEST(LoadRunner, ABusyServerDoesNotStopTheRun) {
  int stopped = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Rig rig(Poisson(8, 2400, seed), VirtualQueue(0.1, seed + 100));
    stopped += rig.runner.Run().over_saturated ? 1 : 0;
  }
  EXPECT_LE(stopped, 3) << "of 60 runs at 80 % load";
}

TEST(LoadRunner, StopsWhenAskedTo) {
  LoadRunnerOptions options;
  LoadRunner* runner = nullptr;
  options.on_progress = [&](const LoadProgress& progress) {
    if (progress.elapsed > absl::Seconds(2)) runner->Stop("interrupted");
  };
  Rig rig(Poisson(10, 1000), Takes(absl::Seconds(50), absl::Seconds(60)), std::move(options));
  runner = &rig.runner;
  const LoadRun run = rig.runner.Run();
  EXPECT_EQ(run.stopped_because, "interrupted");
  EXPECT_LT(run.records.size(), 50u);
  EXPECT_EQ(static_cast<int64_t>(run.records.size()) + run.unsent, 1000);
  for (const RequestRecord& record : run.records) EXPECT_EQ(record.outcome, LoadOutcome::kTimeout);
}

TEST(LoadRunner, APlanWithNothingInItEnds) {
  LoadPlanSpec spec = Poisson(0.001, 0);
  spec.duration = absl::Milliseconds(1);
  Rig rig(spec, Takes(absl::Seconds(1), absl::Seconds(1)));
  const LoadRun run = rig.runner.Run();
  EXPECT_THAT(run.records, IsEmpty());
  EXPECT_EQ(run.elapsed, absl::ZeroDuration());
}

TEST(SaturationWatch, NeedsBothToRise) {
  const auto verdict = [](double open_growth, double ttft_growth) {
    SaturationWatch watch;
    Draws noise(MakeSeededEntropy(3));
    std::string why;
    for (int i = 0; i < 900 && why.empty(); ++i) {
      const absl::Duration now = absl::Milliseconds(100) * i;
      watch.NoteOpen(now, static_cast<int64_t>(10 + open_growth * i + 3 * noise.Uniform()));
      watch.NoteFirstToken(now, absl::Seconds(0.5 + ttft_growth * i + 0.3 * noise.Uniform()));
      why = watch.Verdict(now);
    }
    return why;
  };
  EXPECT_THAT(verdict(0.2, 0.01), HasSubstr("over-saturated"));
  EXPECT_THAT(verdict(0.2, 0), IsEmpty());
  EXPECT_THAT(verdict(0, 0.01), IsEmpty());
  EXPECT_THAT(verdict(0, 0), IsEmpty());
}

}  // namespace
}  // namespace interlace
