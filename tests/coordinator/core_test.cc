// The parts under the scheduler: blocks, ledger, shape, policies.
#include <gtest/gtest.h>

#include <vector>

#include "coordinator/block_pool.h"
#include "coordinator/replica_shape.h"
#include "coordinator/scheduling_policy.h"
#include "coordinator/token_ledger.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(BlockPoolTest, GivesOutNoMoreThanItsCapacityAndTakesBack) {
  BlockPool pool;
  pool.SetCapacity(3);
  {
    std::vector<BlockRef> held;
    while (std::optional<BlockRef> block = pool.TryTake()) held.push_back(*std::move(block));
    EXPECT_EQ(held.size(), 3u);
    EXPECT_EQ(pool.held(), 3);
    held.pop_back();
    EXPECT_EQ(pool.held(), 2);
    EXPECT_TRUE(pool.TryTake().has_value());  // and back at once
    pool.SetCapacity(1);
    EXPECT_FALSE(pool.TryTake().has_value());
  }
  EXPECT_EQ(pool.held(), 0);
}

TEST(BlockPoolDeathTest, DyingWithBlocksHeldIsABug) {
  EXPECT_DEATH(
      {
        BlockPool pool;
        pool.SetCapacity(1);
        new BlockRef(*pool.TryTake());
      },
      "contracts.blocks");
}

TEST(TokenLedgerTest, AcceptsTheNextTokenOfTheCurrentAttemptOnly) {
  TokenLedger ledger;
  const RequestId id{7};
  EXPECT_FALSE(ledger.Accept(id, 0, 0, 5));  // not open
  ledger.Open(id);
  EXPECT_TRUE(ledger.Accept(id, 0, 0, 5));
  EXPECT_FALSE(ledger.Accept(id, 0, 0, 6));  // the same index again
  EXPECT_FALSE(ledger.Accept(id, 0, 2, 6));  // a gap
  EXPECT_EQ(ledger.NextAttempt(id), 1u);
  EXPECT_FALSE(ledger.Accept(id, 0, 1, 6));  // of the former attempt
  EXPECT_TRUE(ledger.Accept(id, 1, 1, 6));
  EXPECT_EQ(ledger.accepted(id), (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(ledger.stale(), 4);
}

RankInfo Rank(int32_t stage, int32_t stages, int32_t slots, int64_t tier_bytes) {
  RankInfo rank;
  rank.stage = StageId{stage};
  rank.stages = stages;
  rank.layers = 8;
  rank.layer_begin = 8 * stage / stages;
  rank.layer_end = 8 * (stage + 1) / stages;
  rank.block_tokens = 16;
  rank.arena_slots = slots;
  rank.slot_bytes = 1024;
  rank.tier_bytes = tier_bytes;
  return rank;
}

TEST(ReplicaShapeTest, TheTightestStageCounts) {
  const ReplicaShape shape = ShapeOf({{Rank(0, 2, 400, 0), Rank(1, 2, 40, 0)}});
  EXPECT_EQ(shape.blocks, 10);  // 40 slots over 4 layers
  EXPECT_EQ(shape.BlocksFor(16), 1);
  EXPECT_EQ(shape.BlocksFor(17), 2);
}

TEST(ReplicaShapeTest, SaysWhatToRaise) {
  const ReplicaShape shape = ShapeOf({{Rank(0, 1, 40, 1 << 20)}});  // 5 blocks with all layers kept
  EXPECT_OK(CheckCanRun(shape, 5 * 16, 8));
  EXPECT_THAT(CheckCanRun(shape, 6 * 16, 8),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("lower kv.keep_layers")));
  EXPECT_OK(CheckCanRun(shape, 32 * 16, -1));  // 8 tails and 32 blocks of one streamed layer
  EXPECT_THAT(CheckCanRun(shape, 33 * 16, -1),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("can never run")));
  EXPECT_THAT(CheckCanRun(shape, 1000 * 16, -1),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("kv.host_bytes")));
}

TEST(PolicyTest, UnknownNamesListTheKnown) {
  EXPECT_THAT(MakePolicy("lifo"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("fcfs")));
}

TEST(PolicyTest, FcfsIsTheOrderOfArrival) {
  const std::vector<SequenceView> views = {{RequestId{5}}, {RequestId{2}}, {RequestId{9}}};
  EXPECT_EQ((*MakePolicy("fcfs"))->Order(views), (std::vector<size_t>{1, 0, 2}));
}

}  // namespace
}  // namespace interlace
