#include "kvstore/block_key.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "common/entropy.h"

namespace interlace {
namespace {

BlockKey RandomKey(Entropy& entropy) {
  return BlockKey{{entropy.Next(), entropy.Next()},
                  Generation{entropy.Next()},
                  LayerId{static_cast<int32_t>(entropy.Next() % 200)}};
}

TEST(BlockKeyTest, EncodedKeysComeBack) {
  auto entropy = MakeSeededEntropy(1);
  for (int i = 0; i < 1000; ++i) {
    const BlockKey key = RandomKey(*entropy);
    const std::string bytes = EncodeKey(key);
    ASSERT_EQ(bytes.size(), kEncodedKeyBytes);
    BlockKey back;
    ASSERT_TRUE(DecodeKey(bytes, &back));
    EXPECT_EQ(back, key);
  }
}

TEST(BlockKeyTest, EncodedKeysSortByGenerationFirst) {
  auto entropy = MakeSeededEntropy(2);
  for (int i = 0; i < 1000; ++i) {
    const BlockKey a = RandomKey(*entropy), b = RandomKey(*entropy);
    EXPECT_EQ(EncodeKey(a) < EncodeKey(b), Value(a.generation) < Value(b.generation));
  }
}

TEST(BlockKeyTest, OtherLengthsAreRefused) {
  BlockKey key;
  for (size_t length = 0; length < 60; ++length) {
    EXPECT_EQ(DecodeKey(std::string(length, 'x'), &key), length == kEncodedKeyBytes);
  }
}

TEST(BlockKeyTest, EveryFieldOfTheSeedCounts) {
  const ChainSeed seed{"model", 16, 3, 64, "F32", "tenant"};
  const std::vector<std::function<void(ChainSeed&)>> changes = {
      [](ChainSeed& s) { s.model_digest = "modem"; }, [](ChainSeed& s) { s.block_tokens = 32; },
      [](ChainSeed& s) { s.kv_heads = 4; }, [](ChainSeed& s) { s.head_dim = 65; },
      [](ChainSeed& s) { s.dtype = "F16"; }, [](ChainSeed& s) { s.salt = "other"; },
      // The same characters, cut elsewhere.
      [](ChainSeed& s) { s.dtype = "F32t", s.salt = "enant"; }};
  EXPECT_EQ(RootHash(seed), RootHash(seed));
  for (const auto& change : changes) {
    ChainSeed other = seed;
    change(other);
    EXPECT_NE(RootHash(other), RootHash(seed));
  }
}

TEST(BlockKeyTest, ChainNamesTheBlockAndAllBeforeIt) {
  const BlockHash root = RootHash({.model_digest = "m", .block_tokens = 4});
  const std::vector<int32_t> first = {1, 2, 3, 4}, second = {5, 6, 7, 8};
  const BlockHash here = ChainHash(ChainHash(root, first), second);
  EXPECT_EQ(here, ChainHash(ChainHash(root, first), second));
  EXPECT_NE(here, ChainHash(ChainHash(root, second), first));
  EXPECT_NE(here, ChainHash(root, second));
  for (size_t i = 0; i < first.size(); ++i) {
    std::vector<int32_t> changed = first;
    ++changed[i];
    EXPECT_NE(here, ChainHash(ChainHash(root, changed), second));
  }
}

}  // namespace
}  // namespace interlace
