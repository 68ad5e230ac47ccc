// Policies over time: the real scheduler in virtual time (bench/policy/virtual_replica.h).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "bench/policy/overload.h"
#include "bench/policy/virtual_replica.h"
#include "bench/serve/load_figures.h"
#include "common/entropy.h"
#include "common/log.h"
#include "coordinator/policy/early_start.h"

namespace interlace {
namespace {

// So many requests a second, by Poisson.
std::vector<PlannedRequest> Arrivals(uint64_t seed, size_t count, double rate, int32_t prompt, int32_t answer) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
  std::vector<PlannedRequest> planned(count);
  double at = 0;
  for (PlannedRequest& p : planned) {
    at += -std::log(1 - static_cast<double>(entropy->Next() >> 11) / 9007199254740992.0) / rate;
    p.due = absl::Seconds(at);
    p.expected_prompt_tokens = prompt;
    p.max_tokens = answer;
  }
  return planned;
}

// Small requests, more than get through, and one that needs most of the device: whoever parks requests must not let the
// small ones take the room, each a little, that the large one waits for.
TEST(VirtualPolicy, OneThatNeedsMostOfTheDeviceDoesNotStarve) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (const char* name : {"slack", "fair", "priority", "edf"}) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      VirtualRun setup;
      setup.policy = *FindPolicy(name);
      setup.options.context = 1 << 20;
      setup.options.max_running = 256;
      std::vector<PlannedRequest> planned = Arrivals(seed, 300, 3.5, 256, 128);
      for (PlannedRequest& p : planned) p.targets.tpot = absl::Milliseconds(150);
      planned[20].expected_prompt_tokens = 900;
      planned[20].max_tokens = 200;
      const VirtualOutcome outcome = RunVirtually(setup, planned);
      const RequestRecord& large = outcome.run.records[20];
      EXPECT_EQ(large.outcome, LoadOutcome::kOk);
      EXPECT_GT(outcome.run.elapsed, planned.back().due + absl::Seconds(5)) << "no overload: this shows nothing";
      EXPECT_LT(large.ended - large.sent, absl::Seconds(15)) << name << " seed " << seed;
    }
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

// ---- recorded steps

// All that a policy was given for one step, by value, and what it answered.
struct RecordedStep {
  StepView view;
  std::vector<SequenceView> running, waiting;
  CostModel cost;
  LengthHistory lengths;
  StepDraft draft;

  StepDraft Again(const Policy& policy) const {
    const std::vector<SequenceView> copies = running, waiting_copies = waiting;
    const CostModel cost_copy = cost;
    const LengthHistory lengths_copy = lengths;
    std::vector<const SequenceView*> pointers, waiting_pointers;
    for (const SequenceView& sequence : copies) pointers.push_back(&sequence);
    for (const SequenceView& sequence : waiting_copies) waiting_pointers.push_back(&sequence);
    StepView again = view;
    again.running = pointers;
    again.waiting = waiting_pointers;
    again.cost = &cost_copy;
    again.lengths = &lengths_copy;
    return policy.compose(again);
  }
};
// A row of the table is a plain function, so what it records lies here. Thread: the test's.
const Policy* recorded_policy = nullptr;
std::vector<RecordedStep> recorded_steps;
int64_t steps_seen = 0;

StepDraft ComposeAndRecord(const StepView& view) {
  const StepDraft draft = recorded_policy->compose(view);
  if (++steps_seen % 7 == 0 && recorded_steps.size() < 500) {
    RecordedStep& step = recorded_steps.emplace_back(RecordedStep{view, {}, {}, *view.cost, *view.lengths, draft});
    for (const SequenceView* sequence : view.running) step.running.push_back(*sequence);
    for (const SequenceView* sequence : view.waiting) step.waiting.push_back(*sequence);
  }
  return draft;
}

// A policy answers the same for a copy of what it saw, later, in any order, after whatever else it was asked.
TEST(VirtualPolicy, RecordedStepsGiveTheSameDrafts) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (const Policy& policy : Policies()) {
    recorded_policy = &policy;
    recorded_steps.clear();
    steps_seen = 0;
    Policy recording = policy;
    recording.compose = &ComposeAndRecord;
    VirtualRun setup;
    setup.policy = &recording;
    setup.options.context = 1 << 20;
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(3);
    std::vector<PlannedRequest> planned(60);
    for (size_t i = 0; i < planned.size(); ++i) {
      planned[i].due = absl::Milliseconds(static_cast<int64_t>(400 * i + entropy->Next() % 400));
      planned[i].expected_prompt_tokens = static_cast<int32_t>(16 + entropy->Next() % 800);
      planned[i].max_tokens = static_cast<int32_t>(1 + entropy->Next() % 120);
      if (i % 2 == 0) planned[i].targets.tpot = absl::Milliseconds(20 + static_cast<int64_t>(entropy->Next() % 100));
      if (i % 3 == 0) planned[i].targets.ttft = absl::Milliseconds(500);
    }
    RunVirtually(setup, planned);
    ASSERT_GT(recorded_steps.size(), 100u) << policy.name;
    std::vector<size_t> order(recorded_steps.size());
    for (size_t i = 0; i < order.size(); ++i) {
      order[i] = i;
      std::swap(order[i], order[entropy->Next() % (i + 1)]);
    }
    bool differ = false;
    for (const size_t i : order) {
      ASSERT_EQ(recorded_steps[i].Again(policy), recorded_steps[i].draft) << policy.name << " step " << i;
      differ |= !(recorded_steps[i].draft == recorded_steps[0].draft);
    }
    EXPECT_TRUE(differ) << policy.name << " answers always the same: this shows nothing";
  }
  recorded_steps.clear();
  SetLogSink(nullptr, LogLevel::kInfo);
}

// ---- where arithmetic is the limit

// A burst, and how fast it gets through under fcfs: with whole starts in the room there is, and with room for all.
double Throughput(const MachineLaw& law, int32_t prompt, int32_t answer, int32_t slots) {
  VirtualRun setup;
  setup.policy = *FindPolicy("fcfs");
  setup.options.context = 1 << 20;
  setup.options.max_running = 256;
  setup.law = law;
  setup.shape.device_slots = slots;
  std::vector<PlannedRequest> planned(60);
  for (PlannedRequest& p : planned) {
    p.expected_prompt_tokens = prompt;
    p.max_tokens = answer;
  }
  return 60 / absl::ToDoubleSeconds(RunVirtually(setup, planned).run.elapsed);
}

// What early starts could gain, by the formula, is what room for all gains, in virtual time.
TEST(VirtualPolicy, ServiceTimesAreWhatABurstTakes) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
    const auto draw = [&](int32_t low, int32_t high) {
      return low + static_cast<int32_t>(entropy->Next() % static_cast<uint64_t>(high - low + 1));
    };
    const MachineLaw law{.fixed = 1e-3 * draw(2, 20), .row = 1e-5 * draw(5, 40), .product = 1e-8 * draw(1, 20)};
    const int32_t prompt = 64 * draw(2, 16), answer = 32 * draw(2, 6), fit = draw(1, 6);
    const VirtualShape shape;
    const int32_t blocks = (prompt + answer + shape.block_tokens - 1) / shape.block_tokens;
    const int32_t slots = shape.layers * fit * (blocks + 1);  // and one to grow into

    CostModel cost;
    for (int32_t i = 0; i < 300; ++i) {
      const StepWork work = StepWork().Add(draw(0, 2 * prompt), draw(1, 400));
      cost.Observe(work, absl::Seconds(law.Compute(work)));
    }
    LengthHistory lengths;
    SequenceView one;
    one.prompt = one.known = prompt;
    one.max_tokens = answer;
    const SequenceView* waiting[] = {&one};
    StepView view;
    view.waiting = waiting;
    view.layers = shape.layers;
    view.block_tokens = shape.block_tokens;
    view.device_blocks = slots / shape.layers;
    view.cost = &cost;
    view.lengths = &lengths;
    const ServiceTimes service = ServiceOf(view);
    const double whole = Throughput(law, prompt, answer, slots), all = Throughput(law, prompt, answer, 1 << 24);
    // With room for all 60 share a step.
    const double expected = (service.own + service.idle) / (service.own + service.idle * fit / 60);
    EXPECT_NEAR(all / whole, expected, 0.25 * expected) << "seed " << seed;
    EXPECT_EQ(RoomIsTheLimit(view), service.idle >= 0.25 * service.own);
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

// Steps are nearly all arithmetic, and the device is too small for those who run: slack starts nobody early, so that
// it gives nothing away against fcfs. Where the weights are most of a step, it does, and gains.
TEST(VirtualPolicy, EarlyStartsStopWhereArithmeticIsTheLimit) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (const bool arithmetic : {true, false}) {
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      double ttft[2] = {}, e2e[2] = {};
      for (const int policy : {0, 1}) {
        VirtualRun setup;
        setup.policy = *FindPolicy(policy == 0 ? "fcfs" : "slack");
        setup.options.context = 1 << 20;
        setup.options.max_running = 256;
        setup.shape.device_slots = 30 * 40 * 4;  // four requests
        setup.law.fixed = arithmetic ? 0.5e-3 : 10e-3;
        setup.law.row = arithmetic ? 1e-3 : 0.2e-3;
        const double rate = arithmetic ? 1.2 : 2.2;  // about as many as get through whole
        const LoadFigures figures = FiguresOf(RunVirtually(setup, Arrivals(seed, 200, rate, 512, 128)).run);
        ttft[policy] = figures.ttft.mean;
        e2e[policy] = figures.e2el.mean;
      }
      if (arithmetic) {
        EXPECT_LE(ttft[1], 1.01 * ttft[0]) << "seed " << seed;
        EXPECT_LE(e2e[1], 1.01 * e2e[0]) << "seed " << seed;
      } else {
        EXPECT_LE(ttft[1], 0.5 * ttft[0]) << "seed " << seed;
      }
    }
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

// ---- where room is the limit

// The device holds 1.6 requests, the cores carry three times as many as get through whole, and somewhat more come than
// that. Slack has two decode where fcfs has one, since the second reads from the host what does not fit, as far as a
// step has time for it: first tokens come soon, and nobody pays for that with a long pause or a later end.
TEST(VirtualPolicy, StreamsGoOnWithWhatAStepCanRead) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    LoadFigures figures[2];
    for (const int policy : {0, 1}) {
      VirtualRun setup;
      setup.policy = *FindPolicy(policy == 0 ? "fcfs" : "slack");
      setup.options.context = 1 << 20;
      setup.options.max_running = 256;
      setup.options.policy.max_parked = 4;
      setup.law = {.fixed = 3.6e-3, .row = 0.13e-3, .product = 5e-8};
      std::vector<PlannedRequest> planned = Arrivals(seed, 150, 1.8, 512, 128);
      for (PlannedRequest& p : planned) {
        p.targets = {.ttft = absl::Seconds(2), .tpot = absl::Milliseconds(150), .largest_gap = absl::Seconds(4)};
      }
      figures[policy] = FiguresOf(RunVirtually(setup, planned).run);
    }
    const auto& [fcfs, slack] = figures;
    EXPECT_GT(fcfs.ttft.mean, 1.5) << "nobody waits: this shows nothing";
    EXPECT_LE(slack.ttft.mean, fcfs.ttft.mean / 8) << "seed " << seed;
    EXPECT_LE(slack.largest_gap.p99, 4) << "seed " << seed;
    EXPECT_LE(slack.e2el.mean, 0.6 * fcfs.e2el.mean) << "seed " << seed;
    EXPECT_GE(slack.request_throughput, fcfs.request_throughput) << "seed " << seed;
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

// ---- the pace at which clients get tokens

// Long steps, as prompts make them, that no policy here avoids: the tokens that were made before last through them.
TEST(VirtualPolicy, AtPaceTheLargestGapStaysWithinItsTarget) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    double largest[2] = {}, ended[2] = {};
    for (const int pace : {0, 1}) {
      const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
      VirtualRun setup;
      setup.policy = *FindPolicy("fcfs");
      setup.options.context = 1 << 20;
      setup.options.chunk_tokens = setup.options.step_tokens = 4096;
      setup.options.release_at_pace = pace == 1;
      setup.shape.device_slots = 1 << 20;
      std::vector<PlannedRequest> planned(3);
      planned[0].expected_prompt_tokens = 64;
      planned[0].max_tokens = 700;
      planned[0].targets.tpot = absl::Milliseconds(60);
      planned[0].targets.largest_gap = absl::Milliseconds(200);
      for (const size_t i : {1, 2}) {
        planned[i].due = absl::Milliseconds(static_cast<int64_t>(1000 * i + entropy->Next() % 500));
        planned[i].expected_prompt_tokens = static_cast<int32_t>(1000 + entropy->Next() % 3000);
        planned[i].max_tokens = 4;
      }
      const RequestRecord stream = RunVirtually(setup, planned).run.records[0];
      ASSERT_EQ(stream.outcome, LoadOutcome::kOk);
      EXPECT_EQ(stream.completion_tokens, 700);
      int32_t tokens = 0;
      for (size_t k = 0; k < stream.chunks.size(); ++k) {
        if (k > 0)
          largest[pace] = std::max(largest[pace], absl::ToDoubleSeconds(stream.chunks[k] - stream.chunks[k - 1]));
        if (pace == 1 && stream.chunks[k] < stream.ended) {
          EXPECT_GE(stream.chunks[k], stream.chunks[0] + tokens * absl::Milliseconds(60)) << "sooner than its pace";
        }
        tokens += stream.chunk_tokens[k];
      }
      EXPECT_EQ(tokens, 700);
      ended[pace] = absl::ToDoubleSeconds(stream.ended);
    }
    EXPECT_GT(largest[0], 0.2) << "no pause: this shows nothing";
    EXPECT_LE(largest[1], 0.2) << "seed " << seed;
    EXPECT_EQ(ended[0], ended[1]) << "the answer is whole at the same time";
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

// ---- overload

// At three times what gets through, shedding keeps what gets through in time; nobody fails in another way.
TEST(VirtualPolicy, SheddingKeepsGoodputUnderOverload) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (const char* name : {"slack", "fair"}) {
    const Policy& policy = **FindPolicy(name);
    OverloadLoad load;
    load.duration = absl::Seconds(120);
    const double limit = ComputeLimit(MachineLaw(), load);
    double peak = 0;
    for (const double rate : {0.6, 0.7, 0.8, 0.9, 1.0}) {
      load.rate = rate * limit;
      peak = std::max(peak, RunOverload(policy, /*shed=*/true, load).goodput);
    }
    load.rate = 3 * limit;
    const OverloadPoint kept = RunOverload(policy, /*shed=*/true, load);
    const OverloadPoint lost = RunOverload(policy, /*shed=*/false, load);
    EXPECT_GT(kept.goodput, 0.9 * peak) << name;
    EXPECT_EQ(kept.failed, 0) << name;
    EXPECT_LT(lost.goodput, 0.5 * peak) << name << ": no overload, this shows nothing";
    EXPECT_EQ(lost.shed + lost.failed, 0) << name << ": without shedding everybody is served";
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

// The same where there is room for all, and the time per token is what is short: streams give prompts all of the time
// that their targets leave, and not more. Steps take as long as expected, or not quite.
TEST(VirtualPolicy, GoodputHoldsWhereTimePerTokenIsShort) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (const double off : {0.0, 0.1}) {
    OverloadLoad load;
    load.prompt = 256;
    load.answer = 64;
    load.ttft = absl::Seconds(1);
    load.tpot = absl::Milliseconds(50);
    load.device_bytes = 200e6;
    load.law.unreported = load.law.noise = off;
    const double limit = ComputeLimit(MachineLaw(), load);
    for (const char* name : {"slack", "fair", "edf", "layerkv"}) {
      const Policy& policy = **FindPolicy(name);
      double peak = 0;
      for (const double rate : {0.5, 0.6, 0.7, 0.8}) {
        load.rate = rate * limit;
        peak = std::max(peak, RunOverload(policy, /*shed=*/true, load).goodput);
      }
      EXPECT_GT(peak, 0.65 * limit) << name << ", steps off by " << off;
      for (const double rate : {1.0, 1.5, 3.0}) {
        load.rate = rate * limit;
        EXPECT_GT(RunOverload(policy, /*shed=*/true, load).goodput, 0.9 * peak)
            << name << " at " << rate << ", steps off by " << off;
      }
    }
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

// The same where steps take longer than the ranks say and than those before them: one that is just in time by the
// forecast is late.
TEST(VirtualPolicy, SheddingHoldsWhereTheCostModelIsOff) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (const double unreported : {0.1, 0.2, 0.3}) {
    OverloadLoad load;
    load.duration = absl::Seconds(200);
    load.law.unreported = unreported;
    load.law.noise = 0.2;
    const double limit = ComputeLimit(MachineLaw(), load);
    const Policy& slack = **FindPolicy("slack");
    double peak = 0;
    for (const double rate : {0.4, 0.5, 0.6, 0.7}) {
      load.rate = rate * limit;
      peak = std::max(peak, RunOverload(slack, /*shed=*/true, load).goodput);
    }
    for (const double rate : {0.8, 1.5, 3.0}) {
      load.rate = rate * limit;
      EXPECT_GT(RunOverload(slack, /*shed=*/true, load).goodput, 0.9 * peak) << unreported << " at " << rate;
    }
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

// Whoever will not be served is told at once, since the forecast counts the room that those before it need.
TEST(VirtualPolicy, WhoIsShedIsMostlyToldAtOnce) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  for (const char* name : {"slack", "swap"}) {
    OverloadLoad load;
    load.rate = 3 * ComputeLimit(MachineLaw(), load);
    EXPECT_GT(RunOverload(**FindPolicy(name), /*shed=*/true, load).early, 0.9) << name;
  }
  SetLogSink(nullptr, LogLevel::kInfo);
}

}  // namespace
}  // namespace interlace
