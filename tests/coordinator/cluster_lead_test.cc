// Ranks of a coordinator that leads, stops leading, and leads again.
#include <memory>
#include <string>

#include "tests/coordinator/cluster_fixture.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

class ClusterLeadTest : public ClusterServiceTest {
 protected:
  v1::LeadReply Ask() {
    const auto stub = v1::Cluster::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    v1::LeadReply reply;
    EXPECT_TRUE(stub->Lead(&context, {}, &reply).ok());
    return reply;
  }
};

TEST_F(ClusterLeadTest, OneThatFollowsTakesNoRankAndSaysWhy) {
  Start(1);
  service_->Follow(absl::UnavailableError("the leader is at 10.0.0.2"));
  EXPECT_FALSE(Ask().leads());
  EXPECT_THAT(Register(0)->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("10.0.0.2")));
  EXPECT_EQ(loop_->Load().ranks_ready, 0);
}

TEST_F(ClusterLeadTest, RanksLearnTheEpochOfTheLeadAndStartAboveThoseOfOthers) {
  Start(1);
  service_->Follow(absl::UnavailableError("not yet"));
  service_->Lead(5);
  EXPECT_TRUE(Ask().leads());
  EXPECT_EQ(Ask().lead_epoch(), 5u);
  auto rank = Register(0);
  EXPECT_EQ(rank->lead_epoch(), 5u);
  const uint64_t first = rank->NextEpoch();
  EXPECT_GE(first, uint64_t{5} << 20);
  EXPECT_LT(first, uint64_t{6} << 20) << "below those of the next leader";
}

TEST_F(ClusterLeadTest, ItsRanksAreLetGoAndRequestsWaitOrEnd) {
  Start(1);
  service_->Lead(5);
  auto rank = Register(0);
  const uint64_t before = rank->NextEpoch();
  ASSERT_TRUE(Ready(1));
  const auto sink = Submit(2);
  StepPlan plan = rank->NextPlan();
  service_->Follow(absl::UnavailableError("the leader is at 10.0.0.2"));
  EXPECT_THAT(rank->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("10.0.0.2")));
  ASSERT_TRUE(Ready(0));
  // It was the store that was away: the same lead goes on, and so does the stream.
  service_->Lead(5);
  rank = Register(0);
  EXPECT_GT(rank->NextEpoch(), before);
  for (int token = 0; token < 2; ++token) {
    plan = rank->NextPlan();
    rank->Answer(ResultOf(plan, 0, true));
  }
  EXPECT_OK(sink->AwaitEnd().status);
  // And it was another one that leads.
  const auto cut = Submit(2);
  rank->NextPlan();
  service_->Follow(absl::UnavailableError("the leader is at 10.0.0.2"));
  loop_->EndAll(absl::UnavailableError("the leader is at 10.0.0.2"));
  EXPECT_THAT(cut->AwaitEnd().status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("10.0.0.2")));
}

// The lead ran out and nobody has said so yet: the process stood still.
TEST_F(ClusterLeadTest, NoOrderLeavesOnceTheLeadIsOver) {
  Start(1);
  service_->Lead(5);
  auto rank = Register(0);
  rank->NextEpoch();
  ASSERT_TRUE(Ready(1));
  leads_ = false;
  EXPECT_FALSE(Ask().leads());
  const auto sink = Submit(1);
  ASSERT_TRUE(AwaitLoad(*loop_, [](const EngineLoad& load) { return load.running == 1; })) << "its plan is made";
  EXPECT_FALSE(links_.Take(rank->session(), absl::Milliseconds(50)).has_value());
  service_->Follow(absl::UnavailableError("over"));
  leads_ = true;
  service_->Lead(6);
  rank = Register(0);
  EXPECT_EQ(rank->lead_epoch(), 6u);
  rank->NextEpoch();
  rank->Answer(ResultOf(rank->NextPlan(), 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
}

// The leader was late and nobody else had the lead: what was held back leaves, and rank and request go on.
TEST_F(ClusterLeadTest, WhatWasHeldWhileTheLeadWasOverLeavesWhenItGoesOn) {
  Start(1);
  service_->Lead(5);
  auto rank = Register(0);
  rank->NextEpoch();
  ASSERT_TRUE(Ready(1));
  leads_ = false;
  const auto sink = Submit(2);
  ASSERT_TRUE(AwaitLoad(*loop_, [](const EngineLoad& load) { return load.running == 1; })) << "its plan is made";
  EXPECT_FALSE(links_.Take(rank->session(), absl::Milliseconds(50)).has_value());
  leads_ = true;
  service_->Resume();
  EXPECT_EQ(loop_->Load().ranks_ready, 1);
  rank->Answer(ResultOf(rank->NextPlan(), 0, true));
  rank->Answer(ResultOf(rank->NextPlan(), 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
}

TEST_F(ClusterLeadTest, WhatWasHeldIsNeverSaidWhereAnotherOneLed) {
  Start(1);
  service_->Lead(5);
  auto rank = Register(0);
  rank->NextEpoch();
  ASSERT_TRUE(Ready(1));
  leads_ = false;
  const auto cut = Submit(1);
  ASSERT_TRUE(AwaitLoad(*loop_, [](const EngineLoad& load) { return load.running == 1; })) << "its plan is made";
  service_->Follow(absl::UnavailableError("the leader is at 10.0.0.2"));
  EXPECT_THAT(rank->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("10.0.0.2")));
  leads_ = true;
  service_->Resume();
  EXPECT_FALSE(links_.Take(rank->session(), absl::Milliseconds(50)).has_value());
  loop_->EndAll(absl::UnavailableError("the leader is at 10.0.0.2"));
  EXPECT_FALSE(cut->AwaitEnd().status.ok());
}

}  // namespace
}  // namespace interlace
