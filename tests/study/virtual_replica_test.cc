// The virtual replica's account of what crosses the link, and its trace of the same.
#include "bench/policy/virtual_replica.h"

#include <gtest/gtest.h>

#include "bench/serve/random_draws.h"
#include "common/entropy.h"
#include "tests/study/quiet_test.h"

namespace interlace {
namespace {

VirtualRun SmallMachine(const char* policy) {
  VirtualRun setup;
  setup.policy = *FindPolicy(policy);
  setup.options.context = 1 << 20;
  setup.shape.layers = 6;
  setup.shape.device_slots = 400;
  return setup;
}

std::vector<PlannedRequest> Requests(uint64_t seed, int count) {
  Draws draws(MakeSeededEntropy(seed));
  std::vector<PlannedRequest> planned(static_cast<size_t>(count));
  double at = 0;
  for (PlannedRequest& p : planned) {
    at += draws.Exponential(0.15);
    p.due = absl::Seconds(at);
    p.expected_prompt_tokens = 1 + static_cast<int32_t>(draws.Below(400));
    p.max_tokens = 1 + static_cast<int32_t>(draws.Below(80));
    p.targets.tpot = absl::Milliseconds(100);
  }
  return planned;
}

class VirtualReplicaTest : public QuietTest {};

TEST_F(VirtualReplicaTest, TheTraceAddsUpToTheTraffic) {
  int64_t seen = 0;
  for (const char* policy : {"fcfs", "swap", "stream", "layerkv", "slack"}) {
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      const std::vector<PlannedRequest> requests = Requests(seed, 60);
      VirtualRun setup = SmallMachine(policy);
      std::vector<MemoryOperation> trace;
      setup.trace = &trace;
      const VirtualOutcome outcome = RunVirtually(setup, requests);
      int64_t in = 0, out = 0, streamed = 0;
      absl::Duration before;
      for (const MemoryOperation& op : trace) {
        const int64_t blocks = int64_t{op.blocks} * op.layers;
        if (op.kind == "stream") streamed += blocks;
        if (op.kind == "stream" || op.kind == MoveKindName(MoveKind::kCopyIn)) in += blocks;
        if (op.kind == "leave" || op.kind == MoveKindName(MoveKind::kCopyOut)) out += blocks;
        EXPECT_GE(op.at, before);
        before = op.at;
        EXPECT_TRUE(op.request >= 0 && op.request < 60) << op.request;
        EXPECT_TRUE(op.layers >= 1 && op.layers <= setup.shape.layers && op.blocks >= 1);
      }
      EXPECT_EQ(in, outcome.traffic.in) << policy << " seed " << seed;
      EXPECT_EQ(out, outcome.traffic.out) << policy << " seed " << seed;
      EXPECT_EQ(streamed, outcome.traffic.streamed);
      seen += outcome.traffic.in;
      // Writing it down changes nothing.
      setup.trace = nullptr;
      const VirtualOutcome again = RunVirtually(setup, requests);
      EXPECT_EQ(again.traffic.in, outcome.traffic.in);
      EXPECT_EQ(again.run.elapsed, outcome.run.elapsed);
    }
  }
  EXPECT_GT(seen, 0) << "no policy read anything from the host: this shows nothing";
}

TEST_F(VirtualReplicaTest, AStepTakesWhatItsLawSays) {
  MachineLaw law;
  law.fixed = 1;
  law.row = 2;
  law.row_beyond = 4;
  law.context = law.product = 0;
  EXPECT_EQ(law.Compute({}), 0);
  EXPECT_EQ(law.Compute(StepWork().Add(0, 10)), 1 + 20);
  EXPECT_EQ(law.Compute(StepWork().Add(0, 32)), 1 + 64);
  EXPECT_EQ(law.Compute(StepWork().Add(0, 33)), 1 + 66 + 4);
  law.moved = 0.5;
  EXPECT_EQ(law.Compute(StepWork().Add(0, 10), 8), 1 + 20 + 4);
  EXPECT_EQ(law.Compute({}, 8), 0);
}

}  // namespace
}  // namespace interlace
