#include "kvstore/tier/block_index.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "common/entropy.h"
#include "tests/kvstore/blocks.h"

namespace interlace {
namespace {

using Added = BlockIndex::Added;

TEST(BlockIndexTest, SizesNeverExceedTheBoundAndMatchAPlainModel) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    auto entropy = MakeSeededEntropy(seed);
    int64_t capacity = 1000;
    BlockIndex index(capacity);
    std::map<BlockKey, int64_t> model;
    for (int step = 0; step < 500; ++step) {
      const BlockKey key = Key(seed, static_cast<int32_t>(entropy->Next() % 3), entropy->Next() % 40);
      const int64_t bytes = static_cast<int64_t>(entropy->Next() % 120);
      std::vector<BlockKey> evicted;
      switch (entropy->Next() % 8) {
        case 0:
          EXPECT_EQ(index.Remove(key), model.erase(key) == 1);
          break;
        case 1:
          EXPECT_EQ(index.Use(key), model.contains(key));
          break;
        case 2:
          capacity = static_cast<int64_t>(entropy->Next() % 2000);
          index.SetCapacity(capacity, &evicted);
          break;
        default: {
          const Added added = index.Add(key, static_cast<int32_t>(entropy->Next() % 5000), bytes, &evicted);
          EXPECT_EQ(added == Added::kHeld, model.contains(key));
          if (added == Added::kNew) model[key] = bytes;
          if (added == Added::kTooLarge) {
            EXPECT_GT(bytes, capacity);
          }
        }
      }
      for (const BlockKey& gone : evicted) EXPECT_EQ(model.erase(gone), 1u) << "evicted twice, or never held";
      int64_t sum = 0;
      for (const auto& [held, size] : model) {
        EXPECT_TRUE(index.Holds(held));
        sum += size;
      }
      ASSERT_EQ(index.bytes(), sum);
      ASSERT_EQ(index.blocks(), static_cast<int64_t>(model.size()));
      ASSERT_LE(index.bytes(), capacity);
    }
  }
}

// Fills the index with two kinds of blocks, then adds more; answers which of the first were evicted.
std::set<uint64_t> EvictedOf(BlockIndex& index, int adds, int64_t bytes) {
  std::set<uint64_t> gone;
  for (int i = 0; i < adds; ++i) {
    std::vector<BlockKey> evicted;
    index.Add(Key(2, 0, static_cast<uint64_t>(i)), 0, bytes, &evicted);
    for (const BlockKey& key : evicted) {
      if (key.block.high == 1) gone.insert(key.block.low);
    }
  }
  return gone;
}

TEST(BlockIndexTest, KeepsWhatIsReadWhatIsDearAndWhatIsSmall) {
  std::vector<BlockKey> none;
  {
    BlockIndex index(1000);  // read
    for (uint64_t b = 0; b < 100; ++b) index.Add(Key(1, 0, b), 0, 10, &none);
    for (uint64_t b = 0; b < 100; b += 2) index.Use(Key(1, 0, b));
    for (uint64_t gone : EvictedOf(index, 50, 10)) EXPECT_EQ(gone % 2, 1u);
  }
  {
    BlockIndex index(1000);  // dear: computing block 4096 costs five times as much as block 0
    for (uint64_t b = 0; b < 100; ++b) index.Add(Key(1, 0, b), b % 2 == 0 ? 4096 : 0, 10, &none);
    for (uint64_t gone : EvictedOf(index, 50, 10)) EXPECT_EQ(gone % 2, 1u);
  }
  {
    BlockIndex index(1000);  // small
    for (uint64_t b = 0; b < 100; ++b) index.Add(Key(1, 0, b), 0, b % 2 == 0 ? 4 : 16, &none);
    for (uint64_t gone : EvictedOf(index, 60, 10)) EXPECT_EQ(gone % 2, 1u);
  }
  EXPECT_TRUE(none.empty());
}

TEST(BlockIndexTest, ASequenceLosesItsTailFirst) {
  std::vector<BlockKey> none;
  BlockIndex index(1000);
  for (int32_t b = 0; b < 100; ++b) index.Add(Key(1, 0, static_cast<uint64_t>(b)), b, 10, &none);
  const std::set<uint64_t> gone = EvictedOf(index, 30, 10);
  ASSERT_EQ(gone.size(), 30u);
  EXPECT_EQ(*gone.begin(), 70u);
}

// However often a block was read once, those that are put later overtake it in the end.
TEST(BlockIndexTest, NothingIsKeptForEver) {
  std::vector<BlockKey> evicted;
  BlockIndex index(1000);
  index.Add(Key(1, 0, 0), 0, 10, &evicted);
  for (int i = 0; i < 100000; ++i) index.Use(Key(1, 0, 0));
  for (uint64_t b = 0; b < 100 * 300 && index.Holds(Key(1, 0, 0)); ++b) index.Add(Key(2, 0, b), 0, 10, &evicted);
  EXPECT_FALSE(index.Holds(Key(1, 0, 0)));
}

}  // namespace
}  // namespace interlace
