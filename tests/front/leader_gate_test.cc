// What clients see of a coordinator that stands by.
#include "coordinator/front/leader_gate.h"

#include <gtest/gtest.h>

#include "common/clock.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/readiness.h"
#include "coordinator/front/routes.h"
#include "tests/front/fake_engine.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

const LeadRecord kOther{.epoch = 4, .holder = "other", .http = "10.0.0.2:8000", .grpc = "10.0.0.2:50051"};

class LeaderGateTest : public testing::Test {
 protected:
  FakeEngine engine_;
  ManualClock clock_;
  LeadWindow window_{clock_};
  LeaderGate gate_{engine_, window_};
};

TEST_F(LeaderGateTest, TakesRequestsWhileTheWindowIsOpen) {
  window_.Open(clock_.Now() + absl::Seconds(1));
  EXPECT_OK(gate_.Submit({.id = RequestId{1}}));
  EXPECT_EQ(engine_.submitted(), 1u);
  EXPECT_TRUE(IsReady(gate_.Load()));
  clock_.Advance(absl::Seconds(1));
  EXPECT_THAT(gate_.Submit({.id = RequestId{2}}), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("ask again")));
  EXPECT_EQ(engine_.submitted(), 1u);
  EXPECT_FALSE(IsReady(gate_.Load()));
}

TEST_F(LeaderGateTest, ARefusalNamesTheLeaderAndMayBeTriedAgain) {
  window_.Close(kOther);
  const absl::Status refused = gate_.Submit({.id = RequestId{1}});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("10.0.0.2:50051")));
  const ApiError error = ToApiError(refused);
  EXPECT_EQ(error.http, 503);
  EXPECT_EQ(error.code, "not_leader");
  EXPECT_TRUE(error.retry);
  ASSERT_TRUE(LeaderOf(refused));
  EXPECT_EQ(LeaderOf(refused)->grpc, "10.0.0.2:50051");
  const HttpReply reply = ErrorReply(refused);
  const auto header = [&](absl::string_view name) {
    for (const auto& [key, value] : reply.headers) {
      if (key == name) return value;
    }
    return std::string();
  };
  EXPECT_EQ(header("x-interlace-leader"), "10.0.0.2:8000");
  EXPECT_NE(header("retry-after"), "");
  EXPECT_EQ(header("x-should-retry"), "");
}

// Whoever asks again stays with it: its ranks are on their way.
TEST_F(LeaderGateTest, ALeaderWithoutRanksSaysWhenToAskAgain) {
  window_.Open(absl::InfiniteFuture());
  engine_.Refuse(absl::UnavailableError("no replica is ready"));
  const absl::Status refused = gate_.Submit({.id = RequestId{1}});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no replica")));
  EXPECT_GT(ToApiError(refused).retry_after, absl::ZeroDuration());
  EXPECT_FALSE(LeaderOf(refused));
  engine_.Refuse(absl::ResourceExhaustedError("full"));
  EXPECT_EQ(ToApiError(gate_.Submit({.id = RequestId{1}})).retry_after, absl::ZeroDuration());
}

// What is drained is kept in the record of whoever leads.
TEST_F(LeaderGateTest, OneThatStandsByDrainsNoReplica) {
  window_.Open(clock_.Now() + absl::Seconds(1));
  EXPECT_EQ(gate_.DrainReplica(1, true), engine_.DrainReplica(1, true));
  window_.Close(kOther);
  const absl::Status refused = gate_.DrainReplica(1, true);
  ASSERT_TRUE(LeaderOf(refused));
  EXPECT_EQ(LeaderOf(refused)->http, "10.0.0.2:8000");
}

TEST_F(LeaderGateTest, WhatRunsMayStillBeCancelledAndAskedFor) {
  window_.Close(std::nullopt);
  gate_.Cancel(RequestId{7});
  gate_.Stop(RequestId{8});
  EXPECT_TRUE(engine_.cancelled(RequestId{7}));
  EXPECT_TRUE(engine_.stopped(RequestId{8}));
  EXPECT_FALSE(LeaderOf(gate_.Submit({.id = RequestId{1}})));
}

}  // namespace
}  // namespace interlace
