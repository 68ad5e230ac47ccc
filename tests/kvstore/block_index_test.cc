#include "kvstore/tier/block_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

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

// A load of Zipf over blocks of many sizes, half of which gives way to others all the time.
class ZipfLoad {
 public:
  explicit ZipfLoad(uint64_t seed) : entropy_(MakeSeededEntropy(seed)) {
    for (int rank = 1; rank <= kBlocks; ++rank)
      sums_.push_back((sums_.empty() ? 0 : sums_.back()) + 1 / std::pow(rank, 0.9));
  }
  BlockKey Next() {
    const double draw = static_cast<double>(entropy_->Next() >> 11) * 0x1p-53 * sums_.back();
    const auto rank = static_cast<uint64_t>(std::lower_bound(sums_.begin(), sums_.end(), draw) - sums_.begin());
    return Key(1, 0, rank % 2 == 0 ? rank : rank + ++drawn_ / 500 * kBlocks);
  }
  static int64_t BytesOf(const BlockKey& key) { return int64_t{64} << (key.block.low * 2654435761 >> 7 & 15) / 4; }
  static int32_t IndexOf(const BlockKey& key) { return static_cast<int32_t>(key.block.low * 40503 >> 3 & 63); }

 private:
  static constexpr int kBlocks = 4000;
  const std::unique_ptr<Entropy> entropy_;
  std::vector<double> sums_;
  uint64_t drawn_ = 0;
};

using Restart = std::function<void(BlockIndex&)>;
constexpr int64_t kZipfBytes = 64 << 10;

// Of the second half of 20,000 requests, the share that is held; after every `life` of them it restarts.
double HitsOf(uint64_t seed, int life, const Restart& restart) {
  constexpr int kRequests = 20000;
  ZipfLoad load(seed);
  BlockIndex index(kZipfBytes);
  int hits = 0;
  for (int request = 0; request < kRequests; ++request) {
    if (life > 0 && request % life == life - 1) restart(index);
    const BlockKey key = load.Next();
    std::vector<BlockKey> evicted;
    hits += index.Add(key, ZipfLoad::IndexOf(key), ZipfLoad::BytesOf(key), &evicted) == Added::kHeld &&
            request >= kRequests / 2;
  }
  return hits / (kRequests / 2.0);
}

// Restarts as the folder of a tier does. `forgets`: what blocks have earned is lost, as by a kill of each life.
class KeptBlocks {
 public:
  explicit KeptBlocks(bool forgets) : forgets_(forgets) {}
  void Restart(BlockIndex& index) {
    for (const BlockIndex::Block& block : index.TakeUnkept()) kept_[block.key] = block;
    std::erase_if(kept_, [&](const auto& entry) { return !index.Holds(entry.first); });
    std::vector<BlockIndex::Block> held;
    for (const auto& [key, block] : kept_) held.push_back(block);
    if (forgets_) std::for_each(held.begin(), held.end(), [](BlockIndex::Block& block) { block.earned = {}; });
    index = BlockIndex(kZipfBytes);
    std::vector<BlockKey> evicted;
    index.Restore(std::move(held), &evicted);
    EXPECT_TRUE(evicted.empty());
  }

 private:
  const bool forgets_;
  std::map<BlockKey, BlockIndex::Block> kept_;
};

TEST(BlockIndexTest, OneThatIsRestartedOftenServesAsOneThatIsNot) {
  double most_forgotten = 0;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const double steady = HitsOf(seed, 0, {});
    EXPECT_GT(steady, 0.3) << "the load is one that a cache serves";
    EXPECT_LT(steady, 0.95) << "and that does not fit";
    for (const int life : {50, 500, 5000}) {
      KeptBlocks keeps(false), forgets(true);
      EXPECT_NEAR(HitsOf(seed, life, [&](BlockIndex& index) { keeps.Restart(index); }), steady, 0.01)
          << "seed " << seed << ", lives of " << life;
      const double forgotten = HitsOf(seed, life, [&](BlockIndex& index) { forgets.Restart(index); });
      most_forgotten = std::max(most_forgotten, std::abs(forgotten - steady));
    }
  }
  EXPECT_GT(most_forgotten, 0.02) << "it makes a difference";
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
