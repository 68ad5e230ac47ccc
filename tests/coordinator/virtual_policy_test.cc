// Policies over time: the real scheduler in virtual time (bench/policy/virtual_replica.h).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "bench/policy/overload.h"
#include "bench/policy/virtual_replica.h"
#include "common/entropy.h"
#include "common/log.h"

namespace interlace {
namespace {

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
      const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
      std::vector<PlannedRequest> planned(300);
      double at = 0;
      for (PlannedRequest& p : planned) {
        at += -std::log(1 - static_cast<double>(entropy->Next() >> 11) / 9007199254740992.0) / 3.5;
        p.due = absl::Seconds(at);
        p.expected_prompt_tokens = 256;
        p.max_tokens = 128;
        p.targets.tpot = absl::Milliseconds(150);
      }
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
  std::vector<SequenceView> running;
  CostModel cost;
  LengthHistory lengths;
  StepDraft draft;

  StepDraft Again(const Policy& policy) const {
    const std::vector<SequenceView> copies = running;
    const CostModel cost_copy = cost;
    const LengthHistory lengths_copy = lengths;
    std::vector<const SequenceView*> pointers;
    for (const SequenceView& sequence : copies) pointers.push_back(&sequence);
    StepView again = view;
    again.running = pointers;
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
    RecordedStep& step = recorded_steps.emplace_back(RecordedStep{view, {}, *view.cost, *view.lengths, draft});
    for (const SequenceView* sequence : view.running) step.running.push_back(*sequence);
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

}  // namespace
}  // namespace interlace
