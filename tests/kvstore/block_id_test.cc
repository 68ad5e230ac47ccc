#include "kvstore/block_id.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "common/entropy.h"

namespace interlace {
namespace {

BlockKey RandomKey(Entropy& entropy) {
  const auto begin = static_cast<int16_t>(entropy.Next() % 100);
  return BlockKey{{entropy.Next(), entropy.Next()},
                  LayerId{static_cast<int32_t>(entropy.Next() % 200)},
                  {begin, static_cast<int16_t>(begin + 1 + entropy.Next() % 8)}};
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

TEST(BlockKeyTest, EncodedKeysSortAsKeysDo) {
  auto entropy = MakeSeededEntropy(2);
  for (int i = 0; i < 1000; ++i) {
    BlockKey a = RandomKey(*entropy), b = RandomKey(*entropy);
    if (i % 2 == 0) b.block = a.block;  // then the layer decides
    EXPECT_EQ(EncodeKey(a) < EncodeKey(b), a < b);
  }
}

TEST(BlockKeyTest, OtherLengthsAreRefused) {
  BlockKey key;
  for (size_t length = 0; length < 60; ++length) {
    EXPECT_EQ(DecodeKey(std::string(length, 'x'), &key), length == kEncodedKeyBytes);
  }
}

TEST(BlockChainTest, EveryFieldOfTheSeedCounts) {
  ChainSeed seed;
  seed.model_digest = "model";
  seed.numerics = "cpu/avx2";
  seed.dtype = "F32";
  seed.block_tokens = 16;
  seed.kv_heads = 3;
  seed.head_dim = 64;
  seed.adapter = "adapter";
  seed.salt = "tenant";
  seed.secret = "key";
  const std::vector<std::function<void(ChainSeed&)>> changes = {
      [](ChainSeed& s) { s.model_digest = "modem"; }, [](ChainSeed& s) { s.numerics = "cpu/avx512"; },
      [](ChainSeed& s) { s.dtype = "F16"; }, [](ChainSeed& s) { s.block_tokens = 32; },
      [](ChainSeed& s) { s.kv_heads = 4; }, [](ChainSeed& s) { s.head_dim = 65; }, [](ChainSeed& s) { s.adapter = ""; },
      [](ChainSeed& s) { s.adapter = "adaptes"; }, [](ChainSeed& s) { s.salt = "other"; },
      [](ChainSeed& s) { s.secret = ""; },
      // The same characters, cut elsewhere.
      [](ChainSeed& s) { s.dtype = "F32a", s.adapter = "dapter"; },
      [](ChainSeed& s) { s.adapter = "adaptert", s.salt = "enant"; }};
  const std::vector<int32_t> tokens(16, 7);
  const BlockId here = BlockChain(seed).Next({}, tokens);
  EXPECT_EQ(here, BlockChain(seed).Next({}, tokens));
  EXPECT_NE(here, BlockId{});
  for (const auto& change : changes) {
    ChainSeed other = seed;
    change(other);
    EXPECT_NE(BlockChain(other).Next({}, tokens), here);
  }
}

TEST(BlockChainTest, ANameCoversTheBlockAndAllBeforeIt) {
  ChainSeed seed;
  seed.model_digest = "m";
  seed.block_tokens = 4;
  const BlockChain chain(seed);
  const std::vector<int32_t> first = {1, 2, 3, 4}, second = {5, 6, 7, 8};
  const BlockId here = chain.Next(chain.Next({}, first), second);
  EXPECT_EQ(here, chain.Next(chain.Next({}, first), second));
  EXPECT_NE(here, chain.Next(chain.Next({}, second), first));
  EXPECT_NE(here, chain.Next({}, second));
  for (size_t i = 0; i < first.size(); ++i) {
    std::vector<int32_t> changed = first;
    ++changed[i];
    EXPECT_NE(here, chain.Next(chain.Next({}, changed), second));
  }
}

}  // namespace
}  // namespace interlace
