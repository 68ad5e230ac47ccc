#include "kvstore/block_table.h"

#include <gtest/gtest.h>

#include "tests/kvstore/blocks.h"

namespace interlace {
namespace {

using Begun = BlockTable::Begun;

TEST(BlockTableTest, AFailedWriteLeavesTheBlockWhereItWas) {
  BlockTable table;
  const BlockKey key = Key(1, 0, 0);
  EXPECT_EQ(table.BeginWrite(key, {1, 0}), Begun::kGo);
  EXPECT_FALSE(table.TierOf(key).has_value());
  table.EndWrite(key, 1);
  EXPECT_EQ(table.TierOf(key), 1);
  table.BeginWrite(key, {2, 0});
  table.EndWrite(key, std::nullopt);
  EXPECT_EQ(table.TierOf(key), 1);
  table.Forget(key);
  EXPECT_FALSE(table.TierOf(key).has_value());
}

TEST(BlockTableTest, WritesOfABlockGoOneAfterAnother) {
  BlockTable table;
  const BlockKey key = Key(1, 0, 0);
  EXPECT_EQ(table.BeginWrite(key, {1, 0}), Begun::kGo);
  EXPECT_EQ(table.BeginWrite(key, {2, 0}), Begun::kBehindAnother);
  EXPECT_EQ(table.WaitForWrite(key, {3, 0}), (MoveRef{1, 0}));
  BlockTable::Ended ended = table.EndWrite(key, 0);
  EXPECT_EQ(ended.next, (MoveRef{2, 0}));
  EXPECT_TRUE(ended.readers_wait);
  EXPECT_TRUE(ended.released.empty());
  ended = table.EndWrite(key, 2);
  EXPECT_FALSE(ended.next.has_value());
  EXPECT_EQ(ended.released, (std::vector<MoveRef>{{3, 0}}));
  EXPECT_EQ(table.TierOf(key), 2);
  EXPECT_FALSE(table.WaitForWrite(key, {4, 0}).has_value());
}

TEST(BlockTableTest, ADropWaitsForTheLastWriteAndNothingResurrects) {
  BlockTable table;
  const BlockKey held = Key(1, 0, 0), flying = Key(1, 1, 0), other = Key(2, 0, 0);
  for (const BlockKey& key : {held, other}) {
    table.BeginWrite(key, {1, 0});
    table.EndWrite(key, 0);
  }
  table.BeginWrite(flying, {2, 0});
  table.BeginWrite(held, {3, 0});
  EXPECT_FALSE(table.Drop(Generation{1}));
  EXPECT_FALSE(table.TierOf(held).has_value());
  EXPECT_TRUE(table.IsDropped(Generation{1}));
  EXPECT_EQ(table.BeginWrite(Key(1, 5, 5), {4, 0}), Begun::kDropped);
  EXPECT_FALSE(table.EndWrite(flying, 0).last_of_dropped);
  EXPECT_FALSE(table.TierOf(flying).has_value());
  EXPECT_TRUE(table.EndWrite(held, 0).last_of_dropped);
  table.Dropped(Generation{1});
  EXPECT_EQ(table.TierOf(other), 0);
  EXPECT_EQ(table.BeginWrite(held, {5, 0}), Begun::kGo);
}

TEST(BlockTableTest, OthersAreTheNearest) {
  BlockTable table;
  for (const BlockKey& key : {Key(1, 0, 0), Key(1, 2, 0), Key(1, 1, 9), Key(2, 3, 3), Key(3, 0, 0)}) {
    table.BeginWrite(key, {1, 0});
    table.EndWrite(key, 0);
  }
  EXPECT_EQ(table.OtherLayer(Key(1, 0, 0)), Key(1, 2, 0));
  EXPECT_EQ(table.OtherRequest(Key(1, 0, 0)), Key(3, 0, 0));
  EXPECT_FALSE(table.OtherLayer(Key(2, 3, 3)).has_value());
}

}  // namespace
}  // namespace interlace
