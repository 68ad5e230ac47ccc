#include "kvstore/transfer_queue.h"

#include <gtest/gtest.h>

#include <map>
#include <tuple>
#include <vector>

#include "common/entropy.h"

namespace interlace {
namespace {

bool AllOpen(int) { return true; }
absl::Time At(int64_t seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

TEST(TransferQueueTest, ReadsThenDeadlineThenFirstCome) {
  auto entropy = MakeSeededEntropy(6);
  for (int round = 0; round < 200; ++round) {
    TransferQueue queue(3);
    std::vector<std::tuple<Urgency, absl::Time, uint64_t, int32_t>> want;
    for (uint64_t group = 1; group <= 20; ++group) {
      const Urgency urgency = entropy->Next() % 2 ? Urgency::kRead : Urgency::kWrite;
      const absl::Time deadline = At(static_cast<int64_t>(entropy->Next() % 5));
      const int lane = urgency == Urgency::kWrite ? 0 : 1 + static_cast<int>(entropy->Next() % 2);
      const auto moves = static_cast<int32_t>(entropy->Next() % 4);
      for (int32_t i = 0; i < moves; ++i) {
        queue.Push(lane, urgency, deadline, {group, i});
        want.emplace_back(urgency, deadline, group, i);
      }
    }
    std::sort(want.begin(), want.end());
    std::vector<std::pair<uint64_t, int32_t>> got, wanted;
    while (auto chunk = queue.Take(AllOpen, 2)) {
      EXPECT_LE(chunk->moves.size(), 2u);
      for (const MoveRef& move : chunk->moves) {
        EXPECT_EQ(move.group, chunk->moves.front().group);
        got.emplace_back(move.group, move.index);
      }
    }
    for (const auto& [urgency, deadline, group, index] : want) wanted.emplace_back(group, index);
    EXPECT_EQ(got, wanted);
    EXPECT_TRUE(queue.empty());
  }
}

TEST(TransferQueueTest, AnUrgentGroupPassesBetweenChunks) {
  TransferQueue queue(2);
  for (int32_t i = 0; i < 5; ++i) queue.Push(1, Urgency::kRead, At(9), {1, i});
  EXPECT_EQ(queue.Take(AllOpen, 2)->moves.size(), 2u);
  queue.Push(1, Urgency::kRead, At(3), {2, 0});
  EXPECT_EQ(queue.Take(AllOpen, 2)->moves, (std::vector<MoveRef>{{2, 0}}));
  EXPECT_EQ(queue.Take(AllOpen, 9)->moves, (std::vector<MoveRef>{{1, 2}, {1, 3}, {1, 4}}));
}

TEST(TransferQueueTest, ABusyLaneHoldsUpNoOther) {
  TransferQueue queue(3);
  queue.Push(1, Urgency::kRead, At(1), {1, 0});
  queue.Push(2, Urgency::kRead, At(2), {2, 0});
  const auto without_one = [](int lane) { return lane != 1; };
  EXPECT_EQ(queue.Take(without_one, 4)->lane, 2);
  EXPECT_FALSE(queue.HasWork(without_one));
  EXPECT_FALSE(queue.Take(without_one, 4).has_value());
  EXPECT_TRUE(queue.HasWork(AllOpen));
}

TEST(TransferQueueTest, BroughtForwardAWriteIsAsUrgentAsTheRead) {
  TransferQueue queue(2);
  queue.Push(0, Urgency::kWrite, At(1), {1, 0});
  queue.Push(0, Urgency::kWrite, At(9), {2, 0});
  queue.Push(1, Urgency::kRead, At(5), {3, 0});
  EXPECT_TRUE(queue.BringForward({2, 0}, At(4)));
  EXPECT_TRUE(queue.BringForward({2, 0}, At(8)));  // never put back
  EXPECT_EQ(queue.Take(AllOpen, 4)->moves, (std::vector<MoveRef>{{2, 0}}));
  EXPECT_EQ(queue.Take(AllOpen, 4)->moves, (std::vector<MoveRef>{{3, 0}}));
  EXPECT_FALSE(queue.BringForward({2, 0}, At(4)));
}

}  // namespace
}  // namespace interlace
