// Ranks that are told which adapters they are to have while they serve.
#include "absl/synchronization/notification.h"
#include "tests/coordinator/cluster_fixture.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ClusterAdaptersTest : public ClusterServiceTest {
 protected:
  ClusterAdaptersTest() {
    runtime_adapters_ = true;
    adapter_failed_ = [this](const std::string& digest, const absl::Status& why) {
      absl::MutexLock lock(&failed_mutex_);
      failed_.emplace_back(digest, std::string(why.message()));
    };
  }
  ~ClusterAdaptersTest() override {
    if (setter_.joinable()) setter_.Join();
  }
  // On a thread of its own: it waits for the ranks that the test plays.
  void Set(std::vector<RankAdapter> adapters, absl::Duration patience = absl::Seconds(30)) {
    if (setter_.joinable()) setter_.Join();
    setter_ = Thread("setter", [this, adapters, patience] { set_ = service_->SetAdapters(adapters, patience); });
  }
  absl::Status Told() {
    setter_.Join();
    return set_;
  }
  static AdapterList NextList(RankClient& rank) {
    const v1::Order order = rank.Next();
    EXPECT_TRUE(order.has_adapters()) << order.ShortDebugString();
    return DecodeAdapters(order.adapters());
  }
  static void Say(RankClient& rank, const AdapterAnswer& answer) {
    v1::StepResultMessage message;
    EncodeAnswer(answer, message.mutable_adapters());
    rank.Answer(message.SerializeAsString());
  }
  // Answers the next list with that all is well.
  static AdapterList Obey(RankClient& rank) {
    AdapterList list = NextList(rank);
    Say(rank, {list.serial, {}});
    return list;
  }
  std::vector<std::pair<std::string, std::string>> failed() {
    absl::MutexLock lock(&failed_mutex_);
    return failed_;
  }

  const RankAdapter one_{"one", "d1"}, two_{"two", "d2"};
  absl::Mutex failed_mutex_;
  std::vector<std::pair<std::string, std::string>> failed_;  // protected by failed_mutex_
  absl::Status set_;                                         // of setter_, until it is joined
  Thread setter_;
};

TEST_F(ClusterAdaptersTest, AReplicaIsFormedOnceItsRanksHaveThem) {
  Start(2);
  auto first = Register(0), second = Register(1);
  const AdapterList list = NextList(*first);
  EXPECT_TRUE(list.adapters.empty());
  Obey(*second);
  EXPECT_EQ(loop_->Load().ranks_ready, 0);
  Say(*first, {list.serial + 1, {}});  // of no list of ours
  EXPECT_FALSE(links_.Take(first->session(), absl::Milliseconds(20)).has_value());
  Say(*first, {list.serial, {}});
  EXPECT_EQ(first->NextEpoch(), second->NextEpoch());
  EXPECT_TRUE(Ready(2));
}

TEST_F(ClusterAdaptersTest, AllRanksHaveThemWhenItSaysSoAndSoHaveThoseThatComeLater) {
  Start(2);
  EXPECT_TRUE(absl::IsUnavailable(service_->SetAdapters({}, absl::Seconds(1)))) << "no rank is here";
  auto first = Register(0), second = Register(1);
  Obey(*first);
  Obey(*second);
  first->NextEpoch();
  second->NextEpoch();
  Set({one_});
  EXPECT_EQ(Obey(*first).adapters, std::vector<RankAdapter>{one_});
  EXPECT_EQ(Obey(*second).adapters, std::vector<RankAdapter>{one_});
  EXPECT_OK(Told());
  EXPECT_TRUE(Ready(2)) << "it went on as it was";
  second->Break();
  second = RegisterAs(1, 77);
  EXPECT_EQ(Obey(*second).adapters, std::vector<RankAdapter>{one_});
  first->NextEpoch();
  second->NextEpoch();
  EXPECT_TRUE(failed().empty());
}

TEST_F(ClusterAdaptersTest, WhatOneRankCannotHaveIsSaidWithItsName) {
  Start(2);
  auto first = Register(0), second = Register(1);
  Obey(*first);
  Obey(*second);
  first->NextEpoch();
  second->NextEpoch();
  Set({one_});
  NextList(*first);  // it is not waited for
  Say(*second, {NextList(*second).serial, {{"d1", absl::NotFoundError("there is no one")}}});
  const absl::Status told = Told();
  EXPECT_THAT(told, StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("stage 1"), HasSubstr("there is no one"))));
  EXPECT_TRUE(failed().empty()) << "who asked has heard it";
  Set({});
  EXPECT_TRUE(Obey(*first).adapters.empty());
  EXPECT_TRUE(Obey(*second).adapters.empty());
  EXPECT_OK(Told());
}

TEST_F(ClusterAdaptersTest, ARankThatSaysNothingIsNotWaitedForForEver) {
  Start(1);
  auto rank = Register(0);
  Obey(*rank);
  rank->NextEpoch();
  Set({one_}, absl::Milliseconds(20));
  EXPECT_THAT(Told(), StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("has not loaded them within 20ms")));
  Set({one_});
  EXPECT_EQ(NextList(*rank).adapters.size(), 1u);
  rank->Break();  // a rank that goes is waited for no longer
  EXPECT_TRUE(absl::IsUnavailable(Told()));
}

TEST_F(ClusterAdaptersTest, WhatALaterRankCannotHaveIsToldAndItsReplicaWaitsForAListWithout) {
  Start(1);
  auto rank = Register(0);
  Obey(*rank);
  rank->NextEpoch();
  Set({one_, two_});
  Obey(*rank);
  EXPECT_OK(Told());
  rank->Break();
  rank = RegisterAs(0, 77);
  Say(*rank, {NextList(*rank).serial, {{"d2", absl::NotFoundError("gone")}}});
  EXPECT_FALSE(links_.Take(rank->session(), absl::Milliseconds(20)).has_value());
  ASSERT_EQ(failed().size(), 1u);
  EXPECT_EQ(failed()[0].first, "d2");
  EXPECT_THAT(failed()[0].second, AllOf(HasSubstr("gone"), HasSubstr("stage 0")));
  Set({one_});
  Obey(*rank);
  EXPECT_OK(Told());
  rank->NextEpoch();
  EXPECT_TRUE(Ready(1));
}

}  // namespace
}  // namespace interlace
