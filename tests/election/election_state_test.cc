#include "coordinator/election/election_state.h"

#include <gtest/gtest.h>

namespace interlace {
namespace {

using Kind = ElectionState::Turn::Kind;

constexpr absl::Duration kLease = absl::Milliseconds(1000);
const absl::Time kStart = absl::UnixEpoch() + absl::Hours(1);

ElectionState::Options Me() {
  return {.self = {.holder = "me", .lease = kLease, .http = "me:1", .grpc = "me:2"}, .first_epoch = 100};
}
StoredRecord Of(const std::string& holder, uint64_t epoch, uint64_t renewals) {
  return {{.epoch = epoch, .holder = holder, .renewals = renewals, .lease = kLease}, "v" + std::to_string(renewals)};
}

// Reads what the store says; what comes next.
ElectionState::Turn AfterRead(ElectionState& state, absl::Time now, const std::optional<StoredRecord>& stored) {
  EXPECT_EQ(state.Next(now).kind, Kind::kRead);
  state.OnRead(now, stored);
  return state.Next(now);
}

TEST(ElectionStateTest, NothingThereIsTakenAfterALeaseInTheFirstEpoch) {
  ElectionState state(Me(), kStart);
  EXPECT_EQ(AfterRead(state, kStart, std::nullopt).kind, Kind::kWait);
  for (absl::Duration at = kLease / 10; at < kLease; at += kLease / 10) {
    EXPECT_EQ(AfterRead(state, kStart + at, std::nullopt).kind, Kind::kWait);
  }
  const ElectionState::Turn turn = state.Next(kStart + kLease);
  ASSERT_EQ(turn.kind, Kind::kWrite);
  EXPECT_EQ(turn.write.version, "");
  EXPECT_EQ(turn.write.record.epoch, 101u) << "a second has passed";
  EXPECT_EQ(turn.write.record.holder, "me");
  EXPECT_EQ(turn.write.record.grpc, "me:2");
  state.OnWritten(kStart + kLease, turn.write.record, "v1");
  EXPECT_EQ(state.lead_until(), kStart + kLease + 0.8 * kLease) << "from the begin of the write";
}

TEST(ElectionStateTest, AChangedRecordBeginsTheLeaseAnewAndALongerOneCounts) {
  ElectionState state(Me(), kStart);
  StoredRecord other = Of("other", 5, 1);
  AfterRead(state, kStart, other);
  other = Of("other", 5, 2);
  other.record.lease = 2 * kLease;
  const absl::Time changed = kStart + 0.9 * kLease;
  AfterRead(state, changed, other);
  EXPECT_EQ(state.other()->epoch, 5u);
  EXPECT_NE(state.Next(changed + 1.9 * kLease).kind, Kind::kWrite);
  const ElectionState::Turn turn = state.Next(changed + 2 * kLease);
  ASSERT_EQ(turn.kind, Kind::kWrite);
  EXPECT_EQ(turn.write.record.epoch, 6u);
  EXPECT_EQ(turn.write.version, "v2");
  EXPECT_EQ(turn.write.record.lease, kLease);
}

TEST(ElectionStateTest, WhatWasGivenBackIsTakenAtOnce) {
  ElectionState state(Me(), kStart);
  const ElectionState::Turn turn = AfterRead(state, kStart, Of("", 7, 3));
  ASSERT_EQ(turn.kind, Kind::kWrite);
  EXPECT_EQ(turn.write.record.epoch, 8u);
}

TEST(ElectionStateTest, RenewsWithTheSameEpochAndIsNotUnsettledByALateAnswer) {
  ElectionState state(Me(), kStart);
  const ElectionState::Turn taken = AfterRead(state, kStart, Of("", 7, 3));
  state.OnWritten(kStart, taken.write.record, "a");
  EXPECT_EQ(state.Next(kStart).kind, Kind::kWait);
  const absl::Time due = state.Next(kStart).until;
  EXPECT_LE(due, kStart + kLease / 3);
  const ElectionState::Turn renewal = state.Next(due);
  ASSERT_EQ(renewal.kind, Kind::kWrite);
  EXPECT_EQ(renewal.write.record.epoch, 8u);
  EXPECT_EQ(renewal.write.record.renewals, 1u);
  EXPECT_EQ(renewal.write.version, "a");
  // The answer does not come; the write took effect all the same.
  const absl::Time end = state.lead_until();
  state.OnFailed(due, due + kLease / 3);
  EXPECT_EQ(state.lead_until(), end);
  const absl::Time look = state.Next(due + kLease / 3).until;
  const ElectionState::Turn again = AfterRead(state, look, StoredRecord{renewal.write.record, "b"});
  ASSERT_EQ(again.kind, Kind::kWrite);
  EXPECT_EQ(again.write.version, "b");
  EXPECT_EQ(again.write.record.epoch, 8u);
  EXPECT_EQ(again.write.record.renewals, 2u);
}

TEST(ElectionStateTest, WhoWasTakenOverFollows) {
  ElectionState state(Me(), kStart);
  const ElectionState::Turn taken = AfterRead(state, kStart, Of("", 7, 3));
  state.OnWritten(kStart, taken.write.record, "a");
  state.OnRefused();
  AfterRead(state, kStart + absl::Milliseconds(1), Of("other", 9, 0));
  EXPECT_EQ(state.lead_until(), absl::InfinitePast());
  ASSERT_TRUE(state.other());
  EXPECT_EQ(state.other()->holder, "other");
}

// Whoever sees that there is nothing may take it after a lease: the leader's own lead ends at once.
TEST(ElectionStateTest, ADeletedRecordEndsTheLead) {
  ElectionState state(Me(), kStart);
  const ElectionState::Turn taken = AfterRead(state, kStart, Of("", 7, 3));
  state.OnWritten(kStart, taken.write.record, "a");
  state.OnRefused();
  EXPECT_EQ(AfterRead(state, kStart + absl::Milliseconds(1), std::nullopt).kind, Kind::kWait);
  EXPECT_EQ(state.lead_until(), absl::InfinitePast());
}

TEST(ElectionStateTest, WhoResignsGivesTheRecordBackAndTakesNoneAgain) {
  ElectionState state(Me(), kStart);
  const ElectionState::Turn taken = AfterRead(state, kStart, Of("", 7, 3));
  state.OnWritten(kStart, taken.write.record, "a");
  state.Resign();
  EXPECT_EQ(state.lead_until(), absl::InfinitePast());
  const ElectionState::Turn turn = state.Next(kStart);
  ASSERT_EQ(turn.kind, Kind::kWrite);
  EXPECT_EQ(turn.write.record.holder, "");
  EXPECT_EQ(turn.write.record.epoch, 8u);
  EXPECT_FALSE(state.resigned());
  state.OnWritten(kStart, turn.write.record, "b");
  EXPECT_TRUE(state.resigned());
  EXPECT_EQ(state.lead_until(), absl::InfinitePast());
  EXPECT_EQ(state.Next(kStart + absl::Hours(1)).kind, Kind::kWait);
}

// It was late, and the record is as it left it: nobody led in between.
TEST(ElectionStateTest, ALeaderThatWasLateKeepsItsRanksUntilItHasAsked) {
  ElectionState state(Me(), kStart);
  const ElectionState::Turn taken = AfterRead(state, kStart, Of("", 7, 3));
  EXPECT_EQ(state.keep_until(), absl::InfinitePast());
  state.OnWritten(kStart, taken.write.record, "a");
  const absl::Time late = kStart + 100 * kLease;
  EXPECT_LT(state.lead_until(), late);
  EXPECT_GT(state.keep_until(), late) << "whether somebody has it now, the record says, which was not asked";
  const ElectionState::Turn renewal = state.Next(late);
  ASSERT_EQ(renewal.kind, Kind::kWrite);
  EXPECT_EQ(renewal.write.version, "a") << "it succeeds only if nobody has written since";
  EXPECT_EQ(renewal.write.record.epoch, 8u);
  state.OnWritten(late, renewal.write.record, "b");
  EXPECT_EQ(state.lead_until(), late + 0.8 * kLease);
  EXPECT_EQ(state.epoch(), 8u);
}

TEST(ElectionStateTest, WhatIsKeptIsLetGoWhenTheStoreAnswersNothingOrSaysSo) {
  const auto leads = [](ElectionState& state) {
    const ElectionState::Turn taken = AfterRead(state, kStart, Of("", 7, 3));
    state.OnWritten(kStart, taken.write.record, "a");
  };
  ElectionState lost(Me(), kStart), taken(Me(), kStart), deleted(Me(), kStart), resigned(Me(), kStart);
  leads(lost);
  // A call from before the end of the lead, with which the process stood still, says nothing about now.
  lost.OnFailed(kStart + 0.7 * kLease, kStart + 5 * kLease);
  EXPECT_EQ(lost.keep_until(), absl::InfiniteFuture());
  lost.OnFailed(kStart + 0.9 * kLease, kStart + 1.1 * kLease);
  EXPECT_EQ(lost.keep_until(), kStart + kLease) << "then another one may have it";
  leads(taken);
  taken.OnRefused();
  AfterRead(taken, kStart + 2 * kLease, Of("other", 9, 0));
  EXPECT_EQ(taken.keep_until(), absl::InfinitePast());
  leads(deleted);
  deleted.OnRefused();
  AfterRead(deleted, kStart + 2 * kLease, std::nullopt);
  EXPECT_EQ(deleted.keep_until(), absl::InfinitePast());
  leads(resigned);
  resigned.Resign();
  EXPECT_EQ(resigned.keep_until(), absl::InfinitePast());
}

TEST(ElectionStateTest, WhatIsDrainedIsTakenOverAndHandedOn) {
  ElectionState state(Me(), kStart);
  StoredRecord former = Of("", 7, 3);
  former.record.drained = {1};
  const ElectionState::Turn taken = AfterRead(state, kStart, former);
  EXPECT_EQ(taken.write.record.drained, std::vector<int32_t>{1});
  state.OnWritten(kStart, taken.write.record, "a");
  EXPECT_EQ(state.drained(), std::vector<int32_t>{1});
  state.SetDrained({1, 2});
  const ElectionState::Turn renewal = state.Next(kStart + kLease / 4);
  ASSERT_EQ(renewal.kind, Kind::kWrite);
  EXPECT_EQ(renewal.write.record.drained, (std::vector<int32_t>{1, 2}));
  state.OnWritten(kStart + kLease / 4, renewal.write.record, "b");
  state.SetDrained({});
  state.Resign();
  EXPECT_TRUE(state.Next(kStart + kLease / 4).write.record.drained.empty());
}

}  // namespace
}  // namespace interlace
