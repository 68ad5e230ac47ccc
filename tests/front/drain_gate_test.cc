#include "coordinator/front/drain_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/entropy.h"
#include "coordinator/front/api_error.h"
#include "tests/front/fake_engine.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

class EndSink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t> tokens) override { tokens_ += static_cast<int>(tokens.size()); }
  void OnEnd(const RequestEnd& end) override {
    ++ends_;
    end_ = end;
  }
  int tokens() const { return tokens_; }
  int ends() const { return ends_; }
  const RequestEnd& end() const { return end_; }

 private:
  int tokens_ = 0;
  int ends_ = 0;
  RequestEnd end_;
};

struct GateRig {
  struct Sent {
    std::shared_ptr<EndSink> sink = std::make_shared<EndSink>();
    absl::Status status;
  };
  Sent Submit(uint64_t id, bool follows = false) {
    Sent sent;
    Request request;
    request.id = RequestId{id};
    request.prompt = {1, 2};
    request.follows = follows;
    request.sink = sent.sink;
    sent.status = gate.Submit(std::move(request));
    return sent;
  }
  // What a scheduler does with one that was cancelled.
  void EndCancelled(size_t index) {
    const Request request = engine.Await(index);
    ASSERT_TRUE(engine.AwaitCancel(request.id));
    request.sink->OnEnd(EndOf(request, 0, FinishReason::kStop, absl::CancelledError("the client is gone")));
  }
  FakeEngine engine;
  RealClock clock;
  Metrics metrics{"tiny"};
  DrainGate gate{engine, clock, metrics};
};

TEST(DrainGateTest, ClosedItRefusesWhatIsNewAndLetsTheRestFinish) {
  GateRig rig;
  const GateRig::Sent first = rig.Submit(1);
  ASSERT_OK(first.status);
  EXPECT_FALSE(rig.gate.Load().draining);
  ASSERT_OK(rig.gate.Close(absl::InfiniteDuration()));
  const GateRig::Sent refused = rig.Submit(2);
  EXPECT_THAT(refused.status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
  EXPECT_EQ(ToApiError(refused.status).code, "server_draining");
  EXPECT_TRUE(rig.gate.Load().draining);
  EXPECT_TRUE(rig.gate.Snapshot()->draining);
  EXPECT_EQ(rig.metrics.Total("interlace_draining"), 1);
  EXPECT_EQ(rig.gate.state().left, 1);
  const Request running = rig.engine.Await(0);
  running.sink->OnTokens({7, 8});
  running.sink->OnEnd(EndOf(running, 2));
  EXPECT_EQ(first.sink->tokens(), 2);
  EXPECT_OK(first.sink->end().status);
  EXPECT_EQ(rig.gate.state().left, 0);
  EXPECT_EQ(rig.engine.submitted(), 1u);
  ASSERT_OK(rig.gate.Open());
  EXPECT_OK(rig.Submit(3).status);
  EXPECT_FALSE(rig.gate.Load().draining);
  EXPECT_EQ(rig.metrics.Total("interlace_draining"), 0);
}

TEST(DrainGateTest, LaterChoicesOfWhatRunsAreNoNewWork) {
  GateRig rig;
  ASSERT_OK(rig.Submit(1).status);
  ASSERT_OK(rig.gate.Close(absl::InfiniteDuration()));
  EXPECT_OK(rig.Submit(2, /*follows=*/true).status);
  EXPECT_EQ(rig.gate.state().left, 2);
  ASSERT_OK(rig.gate.Close(absl::ZeroDuration()));
  rig.EndCancelled(0);
  rig.EndCancelled(1);
  EXPECT_FALSE(rig.Submit(3, /*follows=*/true).status.ok()) << "the time is over for them too";
}

TEST(DrainGateTest, WhatTheTimeoutCutsIsToldThatTheServerStopped) {
  GateRig rig;
  const GateRig::Sent cut = rig.Submit(1);
  ASSERT_OK(rig.gate.Close(absl::Milliseconds(1)));
  rig.EndCancelled(0);
  EXPECT_EQ(cut.sink->ends(), 1);
  EXPECT_THAT(cut.sink->end().status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("stopped before")));
  EXPECT_EQ(ToApiError(cut.sink->end().status).code, "server_stopping");
  EXPECT_EQ(rig.gate.state().cut, 1);
  EXPECT_EQ(rig.metrics.Total("interlace_drain_cut_total"), 1);
  EXPECT_TRUE(rig.gate.state().draining) << "until it is told to resume";
}

TEST(DrainGateTest, WhatEndsWellJustBeforeItIsCancelledEndedWell) {
  GateRig rig;
  const GateRig::Sent lucky = rig.Submit(1);
  ASSERT_OK(rig.gate.Close(absl::ZeroDuration()));
  const Request request = rig.engine.Await(0);
  ASSERT_TRUE(rig.engine.AwaitCancel(request.id));
  request.sink->OnEnd(EndOf(request, 5, FinishReason::kLength));
  EXPECT_OK(lucky.sink->end().status);
}

TEST(DrainGateTest, ResumedInTimeItCutsNothing) {
  GateRig rig;
  const GateRig::Sent sent = rig.Submit(1);
  ASSERT_OK(rig.gate.Close(absl::Hours(1)));
  EXPECT_LE(*rig.gate.state().until_cut, absl::Hours(1));
  ASSERT_OK(rig.gate.Close(absl::InfiniteDuration()));
  EXPECT_FALSE(rig.gate.state().until_cut.has_value()) << "the later word counts";
  ASSERT_OK(rig.gate.Open());
  EXPECT_FALSE(rig.engine.cancelled(RequestId{1}));
  EXPECT_EQ(sent.sink->ends(), 0);
}

TEST(DrainGateTest, ClosedForGoodItDoesNotOpenAndSaysWhetherAnythingWasCut) {
  GateRig rig;
  ASSERT_OK(rig.gate.Close(absl::Hours(1)));
  EXPECT_TRUE(rig.gate.CloseForGood(absl::Hours(1))) << "nothing is there, so that nothing is waited for";
  EXPECT_TRUE(rig.gate.state().stopping);
  EXPECT_THAT(rig.gate.Open(), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("cannot resume")));
  EXPECT_THAT(rig.gate.Close(absl::Hours(1)), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("stops")));

  GateRig other;
  const GateRig::Sent cut = other.Submit(1);
  Thread scheduler("scheduler", [&] { other.EndCancelled(0); });
  EXPECT_FALSE(other.gate.CloseForGood(absl::ZeroDuration()));
  scheduler.Join();
  EXPECT_EQ(cut.sink->ends(), 1);
}

TEST(DrainGateTest, WhatTheEngineRefusesIsNotWaitedFor) {
  GateRig rig;
  rig.engine.Refuse(absl::ResourceExhaustedError("full"));
  EXPECT_THAT(rig.Submit(1).status, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("full")));
  EXPECT_EQ(rig.gate.state().left, 0);
}

TEST(DrainGateTest, SinksMayOutliveTheGate) {
  FakeEngine engine;
  RealClock clock;
  Metrics metrics("tiny");
  const auto sink = std::make_shared<EndSink>();
  {
    DrainGate gate(engine, clock, metrics);
    Request request;
    request.id = RequestId{1};
    request.sink = sink;
    ASSERT_OK(gate.Submit(std::move(request)));
  }
  const Request request = engine.Await(0);
  request.sink->OnEnd(EndOf(request, 0, FinishReason::kStop, absl::CancelledError("the coordinator stops")));
  EXPECT_EQ(sink->ends(), 1);
}

// In any order of what doors, engine and operator do: what is taken ends exactly once, what is refused never does, and
// only an open gate takes what is new.
TEST(DrainGateTest, WhateverHappensEachTakenRequestEndsOnce) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::unique_ptr<Entropy> chance = MakeSeededEntropy(seed);
    GateRig rig;
    std::vector<GateRig::Sent> taken, refused;
    std::vector<bool> ended;
    bool closed = false, over = false;
    for (uint64_t step = 0; step < 40; ++step) {
      switch (chance->Next() % 5) {
        case 0:
        case 1: {
          const bool follows = chance->Next() % 4 == 0;
          GateRig::Sent sent = rig.Submit(step, follows);
          ASSERT_EQ(sent.status.ok(), !over && (!closed || follows)) << "seed " << seed << " step " << step;
          if (sent.status.ok()) ended.push_back(false);
          (sent.status.ok() ? taken : refused).push_back(std::move(sent));
          break;
        }
        case 2:
          if (!taken.empty()) {
            const size_t index = chance->Next() % taken.size();
            if (ended[index]) break;
            const Request request = rig.engine.Await(index);
            request.sink->OnEnd(EndOf(request, 1));
            ended[index] = true;
          }
          break;
        case 3:
          ASSERT_OK(rig.gate.Open());
          closed = over = false;
          break;
        case 4: {
          const bool cuts = chance->Next() % 2 == 0;
          ASSERT_OK(rig.gate.Close(cuts ? absl::ZeroDuration() : absl::InfiniteDuration()));
          closed = true;
          over = cuts;
          if (!cuts) break;
          for (size_t i = 0; i < taken.size(); ++i) {
            if (!ended[i]) rig.EndCancelled(i);
            ended[i] = true;
          }
          // With nothing to cut nobody hears that the time is over, so it is asked for.
          while (rig.gate.state().until_cut.has_value()) {
          }
          break;
        }
      }
      size_t left = 0;
      for (const bool end : ended) left += end ? 0 : 1;
      ASSERT_EQ(rig.gate.state().left, static_cast<int32_t>(left));
      ASSERT_EQ(rig.gate.Load().draining, closed);
    }
    for (size_t i = 0; i < taken.size(); ++i) ASSERT_EQ(taken[i].sink->ends(), ended[i] ? 1 : 0);
    for (const GateRig::Sent& sent : refused) ASSERT_EQ(sent.sink->ends(), 0);
  }
}

}  // namespace
}  // namespace interlace
