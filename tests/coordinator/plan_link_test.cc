// Plan links between ClusterService and ranks: who is reached, who is obeyed, and what a loss ends.
#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "tests/coordinator/cluster_fixture.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PlanLinkTest : public ClusterServiceTest {
 protected:
  // A rank of one stage that has a plan to answer.
  std::unique_ptr<RankClient> Formed() {
    auto rank = Register(0);
    rank->NextEpoch();
    EXPECT_TRUE(Ready(1));
    return rank;
  }
  double dropped() const { return metrics_.Total("interlace_stale_messages_total"); }
};

TEST_F(PlanLinkTest, ARankThatCannotBeReachedIsToldAndDisturbsNobody) {
  Start(1);
  auto holder = Formed();
  links_.OnConnect([](const std::string& address) -> absl::StatusOr<PeerId> {
    return absl::UnavailableError(absl::StrCat("connecting to ", address, ": no answer within 2s"));
  });
  RankInfo info = ranks_[0];
  info.incarnation = 77;
  info.transport_address = "192.0.2.7:4711";
  EXPECT_THAT(Register(info)->End(), StatusIs(absl::StatusCode::kUnavailable,
                                              AllOf(HasSubstr("192.0.2.7:4711"), HasSubstr("transport.host"))));
  const auto sink = Submit(1);
  holder->Answer(ResultOf(holder->NextPlan(), 0, true));
  EXPECT_OK(sink->AwaitEnd().status) << "the holder was put out by one that has no link";
}

TEST_F(PlanLinkTest, AnAddressThatNeverAnswersHoldsUpNoOtherStage) {
  Start(2);
  absl::Notification tried, answer;
  links_.OnConnect([&](const std::string& address) -> absl::StatusOr<PeerId> {
    if (address != "nowhere") return links_.NewPeer();
    tried.Notify();
    answer.WaitForNotification();
    return PeerId{1000};
  });
  RankInfo info = ranks_[0];
  info.transport_address = "nowhere";
  auto lost = Register(info);
  tried.WaitForNotification();
  auto last = Register(1);
  EXPECT_TRUE(last->Linked());
  lost->Break();
  auto first = Register(0);
  answer.Notify();
  EXPECT_TRUE(links_.AwaitClosed(PeerId{1000})) << "of a rank that went while it was connected to";
  const uint64_t epoch = first->NextEpoch();
  uint64_t of_last = last->NextEpoch();
  if (of_last < epoch) of_last = last->NextEpoch();  // its end was heard after its link was made
  EXPECT_EQ(of_last, epoch);
}

TEST_F(PlanLinkTest, ALostLinkEndsTheMember) {
  Start(2);
  auto first = Register(0);
  links_.Lose(first->peer(), absl::UnavailableError("cable cut"));  // while the replica is not formed
  EXPECT_THAT(first->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cable cut")));
  first = Register(0);
  auto last = Register(1);
  const uint64_t epoch = first->NextEpoch();
  EXPECT_EQ(last->NextEpoch(), epoch);
  ASSERT_TRUE(Ready(2));
  const auto sink = Submit(1);
  EXPECT_EQ(first->NextPlan(), last->NextPlan());
  links_.Lose(last->peer(), absl::UnavailableError("cable cut"));  // while it has a plan
  EXPECT_THAT(last->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cable cut")));
  ASSERT_TRUE(Ready(0));
  last = Register(1);
  EXPECT_GT(last->NextEpoch(), epoch);
  EXPECT_GT(first->NextEpoch(), epoch);
  const StepPlan again = first->NextPlan();
  first->Answer(ResultOf(again, 0, false));
  last->Answer(ResultOf(again, 1, true));
  EXPECT_OK(sink->AwaitEnd().status);
}

TEST_F(PlanLinkTest, AnOrderThatDoesNotLeaveEndsTheMember) {
  Start(1);
  auto rank = Formed();
  const PeerId peer = rank->peer();
  links_.FailSends(absl::InvalidArgumentError("too large"));
  const auto sink = Submit(1);
  EXPECT_THAT(rank->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("too large")));
  EXPECT_TRUE(links_.AwaitClosed(peer)) << "a connection that is still there";
  // One that is lost as soon as it is made.
  EXPECT_THAT(Register(0)->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("too large")));
  links_.FailSends(absl::OkStatus());
  rank = Formed();
  rank->Answer(ResultOf(rank->NextPlan(), 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
}

TEST_F(PlanLinkTest, TheEndOfTheStreamEndsTheLink) {
  Start(1);
  auto rank = Formed();
  rank->Break();
  EXPECT_TRUE(links_.AwaitClosed(rank->peer()));
  auto put_out = RegisterAs(0, 11);
  const PeerId peer = put_out->peer();
  auto fresh = RegisterAs(0, 12);
  EXPECT_TRUE(links_.AwaitClosed(peer));
  EXPECT_EQ(put_out->End().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(fresh->Linked());
}

// What does not come over a link of ours under its session changes nothing, whatever it says.
TEST_F(PlanLinkTest, ResultsOfStrangersAreDroppedAndCounted) {
  Start(1);
  auto rank = Formed();
  const auto sink = Submit(2);
  const StepPlan plan = rank->NextPlan();
  StepResult lie = ResultOf(plan, 0, true);
  lie.sampled.at(0).token = 666;
  v1::StepResultMessage message;
  EncodeResult(lie, &message);
  const std::string bytes = message.SerializeAsString();
  const PeerId stranger = links_.NewPeer();
  links_.Arrive(kResultChannel, stranger, rank->session(), bytes);
  links_.Arrive(kResultChannel, stranger, "", "garbage");
  links_.Arrive(kResultChannel, rank->peer(), "", bytes);
  links_.Arrive(kResultChannel, rank->peer(), "another session.", bytes);
  links_.Arrive(kResultChannel, rank->peer(), "\xff", std::string(1000, '\xff'));
  EXPECT_EQ(dropped(), 5);
  rank->Answer(ResultOf(plan, 0, true));
  rank->Answer(ResultOf(rank->NextPlan(), 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3, 4}));
}

// A process that was stopped goes on where it was, after another has its stage.
TEST_F(PlanLinkTest, AFormerIncarnationIsNotHeard) {
  Start(1);
  auto old = RegisterAs(0, 11);
  old->NextEpoch();
  ASSERT_TRUE(Ready(1));
  const auto sink = Submit(1);
  const StepPlan before = old->NextPlan();
  const PeerId peer = old->peer();
  auto fresh = RegisterAs(0, 12);
  fresh->NextEpoch();
  const StepPlan plan = fresh->NextPlan();
  StepResult lie = ResultOf(plan, 0, true);
  lie.sampled.at(0).token = 666;
  v1::StepResultMessage message;
  EncodeResult(lie, &message);
  // Over a connection of its own, since its link was closed.
  links_.Arrive(kResultChannel, links_.NewPeer(), old->session(), message.SerializeAsString());
  EXPECT_EQ(dropped(), 1);
  EXPECT_TRUE(links_.AwaitClosed(peer));
  fresh->Answer(ResultOf(plan, 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3}));
}

TEST_F(PlanLinkTest, ACandidateIsSentAwayByTheDrain) {
  Start(1);
  absl::Notification tried, answer;
  links_.OnConnect([&](const std::string&) -> absl::StatusOr<PeerId> {
    tried.Notify();
    answer.WaitForNotification();
    return PeerId{1000};
  });
  auto rank = Register(0);
  tried.WaitForNotification();
  Thread draining("draining", [this] { service_->Drain(); });
  EXPECT_THAT(rank->End(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("draining")));
  answer.Notify();
  draining.Join();
  EXPECT_TRUE(links_.AwaitClosed(PeerId{1000}));
}

// Whoever listened in says again what a rank said when it registered: while its stream stands, and when it is over.
TEST_F(PlanLinkTest, ARegistrationThatIsSentAgainPutsNobodyOut) {
  Start(1, {.liveness = kPatient, .register_within = absl::ZeroDuration()});
  auto rank = Formed();
  const auto sink = Submit(2);
  const StepPlan plan = rank->NextPlan();
  RankClient replayed(address_, ranks_[0], links_, rank->session());
  EXPECT_THAT(replayed.End(), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("session")));
  RankInfo elsewhere = ranks_[0];
  elsewhere.incarnation = 99;
  elsewhere.transport_address = "address of the attacker";
  RankClient forged(address_, elsewhere, links_, rank->session());
  EXPECT_THAT(forged.End(), StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("session")));
  EXPECT_EQ(metrics_.Total("interlace_refused_peers_total"), 2);

  const std::string before = RankClient::NewSession();  // of a stream of the same rank that is over
  IsNobodys(before);
  RankClient old(address_, ranks_[0], links_, before);
  ASSERT_TRUE(old.Linked()) << "the rank's transport is reached, and says nothing";
  service_->Watch();
  EXPECT_THAT(old.End(), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("session")));
  EXPECT_TRUE(links_.AwaitClosed(old.peer()));
  EXPECT_EQ(metrics_.Total("interlace_refused_peers_total"), 3);

  rank->Answer(ResultOf(plan, 0, true));
  rank->Answer(ResultOf(rank->NextPlan(), 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3, 4})) << "the rank that holds the stage was not disturbed";
}

// Only the link itself, under its session, says that the rank knows of it.
TEST_F(PlanLinkTest, NobodyElseConfirmsForARank) {
  Start(1);
  auto holder = Formed();
  const auto sink = Submit(1);
  const StepPlan plan = holder->NextPlan();
  const std::string session = RankClient::NewSession();
  IsNobodys(session);
  RankClient forged(address_, ranks_[0], links_, session);
  ASSERT_TRUE(forged.Linked());
  links_.Arrive(kResultChannel, links_.NewPeer(), session, "");
  links_.Arrive(kResultChannel, forged.peer(), "another session.", "");
  links_.Arrive(kResultChannel, holder->peer(), session, "");
  links_.Arrive(kResultChannel, holder->peer(), holder->session(), "");  // once more
  StepResult lie = ResultOf(plan, 0, true);
  lie.sampled.at(0).token = 666;
  v1::StepResultMessage message;
  EncodeResult(lie, &message);
  links_.Arrive(kResultChannel, forged.peer(), session, message.SerializeAsString());
  EXPECT_EQ(dropped(), 3);
  holder->Answer(ResultOf(plan, 0, true));
  EXPECT_OK(sink->AwaitEnd().status);
  EXPECT_EQ(sink->tokens(), (std::vector<int32_t>{3}));
  // And the one that knows it does.
  links_.Arrive(kResultChannel, forged.peer(), session, "");
  EXPECT_EQ(holder->End().code(), absl::StatusCode::kAborted);
}

TEST_F(PlanLinkTest, WhatRanksRefuseIsCountedByCause) {
  Start(1);
  auto rank = Formed();
  const auto say = [&](std::vector<int64_t> refused) {
    v1::FromRank message;
    message.mutable_heartbeat()->mutable_refused()->Assign(refused.begin(), refused.end());
    rank->Write(message);
  };
  say({3, 1});
  say({3, 4});
  say({2, 4, 0, 0, 0, 0, 0, 1000});  // one that fell, and a cause that is not known here
  say({2, 4, 0, 0, 0, 7});
  const auto line = [this](const std::string& cause, int count) {
    const std::string text = metrics_.Text();
    return text.find(absl::StrCat("model_name=\"test\",cause=\"", cause, "\",port=\"rank-0\"} ", count)) !=
           std::string::npos;
  };
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (!line("tampered", 7) && absl::Now() < limit) Ready(1);
  EXPECT_TRUE(line("garbage", 3)) << metrics_.Text();
  EXPECT_TRUE(line("wrong_key", 4)) << metrics_.Text();
  EXPECT_TRUE(line("tampered", 7)) << metrics_.Text();
}

}  // namespace
}  // namespace interlace
