// Policies over time: the real scheduler in virtual time (bench/policy/virtual_replica.h).
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

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

}  // namespace
}  // namespace interlace
