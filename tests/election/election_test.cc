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

// Somebody found the window over: what it did not say then must be said anew.
TEST_F(ElectionTest, AWindowThatWasFoundOverIsANewLead) {
  Candidate a("a", store_a_, kLease);
  const std::optional<uint64_t> epoch = a.AwaitLead();
  ASSERT_TRUE(epoch);
  const int before = a.told();
  a.window().Close(std::nullopt);
  ASSERT_TRUE(a.AwaitTold(before + 2));
  EXPECT_EQ(a.AwaitLead(), epoch);
  EXPECT_TRUE(a.window().Holds());
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
