// The thread of an election, and the window, on a store in memory.
#include "coordinator/election/election.h"

#include <gtest/gtest.h>

#include "common/log.h"
#include "tests/election/candidate.h"
#include "tests/election/memory_store.h"

namespace interlace {
namespace {

constexpr absl::Duration kLease = absl::Milliseconds(400);

class ElectionTest : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  }
  void TearDown() override { SetLogSink(nullptr, LogLevel::kInfo); }
  SharedRecord record_;
  MemoryStore store_a_{record_}, store_b_{record_};
};

TEST_F(ElectionTest, TheOtherTakesTheLeadOfOneThatDied) {
  Candidate a("a", store_a_, kLease);
  const std::optional<uint64_t> epoch = a.AwaitLead();
  ASSERT_TRUE(epoch);
  EXPECT_TRUE(a.open_at_lead());
  Candidate b("b", store_b_, kLease);
  EXPECT_EQ(b.AwaitLeader("a")->grpc, "a:2");
  EXPECT_EQ(b.window().leader()->http, "a:1");
  EXPECT_FALSE(b.window().Holds());
  a.Die();
  EXPECT_EQ(b.AwaitLead(), *epoch + 1);
  EXPECT_TRUE(b.window().Holds());
  EXPECT_FALSE(a.window().Holds()) << "nobody renewed it";
}

TEST_F(ElectionTest, WhoIsCutOffStopsBeforeAnotherLeadsAndFollowsAfterwards) {
  Candidate a("a", store_a_, kLease);
  ASSERT_TRUE(a.AwaitLead());
  Candidate b("b", store_b_, kLease);
  b.AwaitLeader("a");
  store_a_.Cut(true);
  ASSERT_TRUE(b.AwaitLead());
  EXPECT_FALSE(a.window().Holds());
  EXPECT_TRUE(a.AwaitFollow());
  store_a_.Cut(false);
  EXPECT_TRUE(a.AwaitLeader("b"));
  EXPECT_EQ(a.window().leader()->holder, "b");
}

TEST_F(ElectionTest, AStoreThatIsAwayForAllEndsTheLeadAndItGoesOnInTheSameEpoch) {
  Candidate a("a", store_a_, kLease);
  const std::optional<uint64_t> epoch = a.AwaitLead();
  store_a_.Cut(true);
  EXPECT_TRUE(a.AwaitFollow());
  EXPECT_FALSE(a.window().Holds());
  EXPECT_FALSE(a.window().leader());
  store_a_.Cut(false);
  EXPECT_EQ(a.AwaitLead(), epoch) << "nobody led since";
}

TEST_F(ElectionTest, AResignationGivesTheRecordBackAndWhoComesLeadsWithoutWaiting) {
  Candidate a("a", store_a_, kLease);
  const std::optional<uint64_t> epoch = a.AwaitLead();
  ASSERT_TRUE(epoch);
  a.Resign();
  EXPECT_FALSE(a.leads());
  EXPECT_FALSE(a.window().Holds());
  ASSERT_TRUE(record_.Get());
  EXPECT_NE(record_.Get()->record.holder, "a");
  a.Resign();                                  // again: nothing happens
  Candidate b("b", store_b_, absl::Hours(1));  // a lease that nobody waits for
  EXPECT_EQ(b.AwaitLead(), *epoch + 1);
}

// Somebody found the window over: what was held back then is said now.
TEST_F(ElectionTest, AWindowThatWasFoundOverIsOpenedAgainAndThatIsTold) {
  Candidate a("a", store_a_, kLease);
  ASSERT_TRUE(a.AwaitLead());
  const int before = a.told();
  a.window().Close(std::nullopt);
  ASSERT_TRUE(a.AwaitResumed(1));
  EXPECT_TRUE(a.open_at_lead());
  EXPECT_EQ(a.told(), before) << "its ranks stayed";
}

// Its thread stood still for longer than its lead lasted, and nobody else was there to take it.
TEST_F(ElectionTest, ALeaderThatWasLateGoesOnWithWhatItHas) {
  Candidate a("a", store_a_, kLease);
  const std::optional<uint64_t> epoch = a.AwaitLead();
  ASSERT_TRUE(epoch);
  const int before = a.told();
  for (int time = 1; time <= 3; ++time) {
    store_a_.Stall(true);
    ASSERT_TRUE(a.AwaitOver());
    store_a_.Stall(false);
    ASSERT_TRUE(a.AwaitResumed(time));
    EXPECT_TRUE(a.open_at_lead());
  }
  EXPECT_EQ(a.told(), before) << "it was never told to let its ranks go";
  EXPECT_EQ(a.leads(), epoch);
}

// The same, and somebody was: a lead that was another one's in between is not gone on with.
TEST_F(ElectionTest, ALeaderThatWasLateFollowsWhoTookTheLead) {
  Candidate a("a", store_a_, kLease);
  ASSERT_TRUE(a.AwaitLead());
  Candidate b("b", store_b_, kLease);
  b.AwaitLeader("a");
  store_a_.Stall(true);
  ASSERT_TRUE(b.AwaitLead());
  store_a_.Stall(false);
  EXPECT_EQ(a.AwaitLeader("b")->holder, "b");
  EXPECT_FALSE(a.AwaitResumed(1, absl::ZeroDuration()));
  EXPECT_FALSE(a.window().Holds());
}

TEST_F(ElectionTest, WhatIsDrainedGoesFromLeaderToLeader) {
  auto a = std::make_unique<Candidate>("a", store_a_, kLease);
  ASSERT_TRUE(a->AwaitLead());
  EXPECT_TRUE(a->drained().empty());
  a->Drain({0, 2});
  ASSERT_TRUE(record_.AwaitDrained({0, 2})) << "with the next renewal";
  a->Die();
  Candidate b("b", store_b_, kLease);
  ASSERT_TRUE(b.AwaitLead());
  EXPECT_EQ(b.drained(), (std::vector<int32_t>{0, 2}));
  b.Drain({2});
  b.Resign();  // what was drained last goes with the record
  Candidate c("c", store_a_, kLease);
  ASSERT_TRUE(c.AwaitLead());
  EXPECT_EQ(c.drained(), std::vector<int32_t>{2});
}

TEST(LeadWindowTest, IsOverAtItsTimeAndStaysSo) {
  ManualClock clock;
  LeadWindow window(clock);
  EXPECT_FALSE(window.Holds());
  EXPECT_FALSE(window.Extend(clock.Now() + absl::Seconds(1))) << "it was never opened";
  window.Open(clock.Now() + absl::Seconds(1));
  EXPECT_TRUE(window.Holds());
  EXPECT_TRUE(window.Extend(clock.Now() + absl::Seconds(2)));
  clock.Advance(absl::Seconds(2));
  EXPECT_FALSE(window.Extend(clock.Now() + absl::Seconds(1))) << "whether or not anybody asked meanwhile";
  EXPECT_FALSE(window.Holds());
  window.Open(absl::InfiniteFuture());
  clock.Advance(absl::Hours(100000));
  EXPECT_TRUE(window.Holds());
  window.Close(LeadRecord{.epoch = 3});
  EXPECT_FALSE(window.Holds());
  EXPECT_EQ(window.leader()->epoch, 3u);
}

}  // namespace
}  // namespace interlace
