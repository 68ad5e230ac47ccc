// The store: what is found, what is not, what goes, and how often an answer that was found was wrong.
#include "coordinator/response_cache/response_cache.h"

#include <gtest/gtest.h>

#include <cmath>

#include "common/clock.h"
#include "common/thread.h"
#include "tests/skip_index/key_cloud.h"

namespace interlace {
namespace {

AnswerKey Key(uint64_t scope, uint64_t prompt) { return {{1, scope}, {scope, prompt}}; }
KeptAnswer Answer(int32_t word, double seconds = 1, size_t length = 4) {
  return {std::vector<int32_t>(length, word), FinishReason::kStop, 0, static_cast<int32_t>(length), seconds};
}
const absl::Time kNow = absl::UnixEpoch();

TEST(ResponseCacheTest, GivesTheVerySameRequestWhatWasKept) {
  ResponseCache cache({}, MakeSeededEntropy(1), nullptr);
  EXPECT_EQ(cache.Exact(Key(1, 1), kNow), nullptr);
  cache.Keep(Key(1, 1), {}, Answer(7), kNow);
  ASSERT_NE(cache.Exact(Key(1, 1), kNow), nullptr);
  EXPECT_EQ(cache.Exact(Key(1, 1), kNow)->tokens, Answer(7).tokens);
  EXPECT_EQ(cache.Exact(Key(1, 2), kNow), nullptr);
  EXPECT_EQ(cache.Exact(Key(2, 1), kNow), nullptr);
  cache.Keep(Key(1, 1), {}, Answer(8), kNow);  // in its place
  EXPECT_EQ(cache.Exact(Key(1, 1), kNow)->tokens, Answer(8).tokens);
  EXPECT_EQ(cache.counts().entries, 1);
}

TEST(ResponseCacheTest, KeepsNothingBeyondItsAge) {
  ResponseCache cache({.ttl = absl::Seconds(10)}, MakeSeededEntropy(1), nullptr);
  const std::vector<float> key = {1, 0};
  cache.Keep(Key(1, 1), key, Answer(7), kNow);
  cache.Keep(Key(1, 2), {}, Answer(8), kNow + absl::Seconds(5));
  EXPECT_NE(cache.Exact(Key(1, 1), kNow + absl::Seconds(9)), nullptr);
  EXPECT_EQ(cache.Exact(Key(1, 1), kNow + absl::Seconds(10)), nullptr);
  EXPECT_EQ(cache.Nearest(Key(1, 3), key, 100, kNow + absl::Seconds(10)).kind, CacheFound::Kind::kNone);
  EXPECT_NE(cache.Exact(Key(1, 2), kNow + absl::Seconds(14)), nullptr);
  EXPECT_EQ(cache.Exact(Key(1, 2), kNow + absl::Seconds(15)), nullptr);
  EXPECT_EQ(cache.counts().expired, 2);
  EXPECT_EQ(cache.counts().bytes, 0);
}

// Whoever has another scope finds nothing, however much is known and however alike the prompts are.
TEST(ResponseCacheTest, ScopesNeverMeet) {
  ResponseCache cache({.error = 0.2}, MakeSeededEntropy(1), nullptr);
  const auto entropy = MakeSeededEntropy(2);
  const std::vector<float> center = RandomKey(*entropy, 32);
  int hits = 0;
  for (uint64_t i = 0; i < 2000; ++i) {
    const std::vector<float> key = i % 2 == 0 ? Near(*entropy, center, 0.3) : RandomKey(*entropy, 32);
    const CacheFound found = cache.Nearest(Key(1, i), key, 100, kNow);
    hits += found.kind == CacheFound::Kind::kHit;
    const KeptAnswer answer = Answer(i % 2 == 0 ? 7 : static_cast<int32_t>(1000 + i));
    const bool same = found.kind == CacheFound::Kind::kTrial && cache.Compare(Key(1, i), found, answer, true);
    if (found.kind != CacheFound::Kind::kHit && !same) cache.Keep(Key(1, i), key, answer, kNow);
    ASSERT_EQ(cache.Nearest(Key(2, i), key, 100, kNow).kind, CacheFound::Kind::kNone);
    ASSERT_EQ(cache.Exact(Key(2, i), kNow), nullptr);
  }
  EXPECT_GT(hits, 500);
}

struct Meaning {
  std::vector<float> center;
  double spread;
};

class ErrorTest : public ::testing::TestWithParam<double> {};

// Prompts of 60 meanings, asked for with unequal frequency; who means the same gets the same answer. Some meanings lie
// so near to others that prompts of one are nearest to an answer of the other.
TEST_P(ErrorTest, StaysWithinItsBoundOver100000Requests) {
  constexpr int kRequests = 100000, kWidth = 24;
  ResponseCache cache({.error = GetParam()}, MakeSeededEntropy(5), nullptr);
  const auto entropy = MakeSeededEntropy(6);
  std::vector<Meaning> meanings;
  for (int i = 0; i < 60; ++i) {
    const bool twin = i % 3 == 2;
    meanings.push_back({twin ? Near(*entropy, meanings.back().center, 0.7) : RandomKey(*entropy, kWidth),
                        0.2 + 0.5 * Uniform(*entropy)});
  }
  int wrong = 0, hits = 0, early = 0;
  absl::flat_hash_map<uint64_t, int64_t> compared;  // by entry
  for (uint64_t i = 0; i < kRequests; ++i) {
    const double u = Uniform(*entropy);
    const auto which = static_cast<size_t>(60 * u * u);
    const std::vector<float> key = Near(*entropy, meanings[which].center, meanings[which].spread);
    const KeptAnswer answer = Answer(static_cast<int32_t>(which));
    const CacheFound found = cache.Nearest(Key(1, i), key, 100, kNow);
    if (found.kind == CacheFound::Kind::kHit) {
      ++hits;
      wrong += !SameAnswer(*found.answer, answer);
      early += compared[found.entry] < AnswerRule::kLeast;
      continue;
    }
    if (found.kind == CacheFound::Kind::kTrial && found.likeness >= 0) ++compared[found.entry];
    const bool same = found.kind == CacheFound::Kind::kTrial && cache.Compare(Key(1, i), found, answer, true);
    if (!same) cache.Keep(Key(1, i), key, answer, kNow);
  }
  const double share = wrong / double{kRequests};
  RecordProperty("wrong", std::to_string(share));
  RecordProperty("hits", std::to_string(hits / double{kRequests}));
  RecordProperty("entries", std::to_string(cache.counts().entries));
  EXPECT_LE(share, GetParam() + 3 * std::sqrt(GetParam() / kRequests));
  EXPECT_GT(hits, kRequests / 10);
  EXPECT_EQ(early, 0);
}

INSTANTIATE_TEST_SUITE_P(Bounds, ErrorTest, ::testing::Values(0.01, 0.02, 0.05, 0.1));

TEST(ResponseCacheTest, AnAnswerThatIsTooLongForTheRequestIsNotFound) {
  ResponseCache cache({}, MakeSeededEntropy(1), nullptr);
  const std::vector<float> key = {1, 0};
  cache.Keep(Key(1, 1), key, Answer(7, 1, 5), kNow);
  EXPECT_EQ(cache.Nearest(Key(1, 2), key, 4, kNow).kind, CacheFound::Kind::kNone);
  EXPECT_EQ(cache.Nearest(Key(1, 2), key, 5, kNow).kind, CacheFound::Kind::kTrial);
}

TEST(ResponseCacheTest, APromptWithTheSameAnswerHasItFromThenOn) {
  ResponseCache cache({}, MakeSeededEntropy(1), nullptr);
  const std::vector<float> key = {1, 0};
  cache.Keep(Key(1, 1), key, Answer(7), kNow);
  const CacheFound found = cache.Nearest(Key(1, 2), key, 100, kNow);
  EXPECT_FALSE(cache.Compare(Key(1, 2), found, Answer(8), true));
  EXPECT_EQ(cache.Exact(Key(1, 2), kNow), nullptr);
  EXPECT_TRUE(cache.Compare(Key(1, 3), found, Answer(7), /*keep=*/false));
  EXPECT_EQ(cache.Exact(Key(1, 3), kNow), nullptr);
  EXPECT_TRUE(cache.Compare(Key(1, 2), found, Answer(7), true));
  EXPECT_NE(cache.Exact(Key(1, 2), kNow), nullptr);
  EXPECT_EQ(cache.counts().entries, 1);
}

TEST(ResponseCacheTest, AnswersThatADoorStoppedAreTheSameUpToTheShorter) {
  const auto stopped = [](std::vector<int32_t> tokens) {
    return KeptAnswer{std::move(tokens), FinishReason::kStop, -1};
  };
  const auto ended = [](std::vector<int32_t> tokens) { return KeptAnswer{std::move(tokens), FinishReason::kStop, 0}; };
  EXPECT_TRUE(SameAnswer(stopped({1, 2, 3}), stopped({1, 2})));
  EXPECT_FALSE(SameAnswer(stopped({1, 2, 3}), stopped({1, 3})));
  EXPECT_FALSE(SameAnswer(ended({1, 2, 3}), ended({1, 2})));
  EXPECT_FALSE(SameAnswer(ended({1, 2}), stopped({1, 2})));
  EXPECT_FALSE(SameAnswer({{1}, FinishReason::kLength}, {{1}, FinishReason::kStop}));
}

TEST(ResponseCacheTest, StaysWithinItsBytesAndGivesUpWhatSavesLeast) {
  ResponseCache cache({.most_bytes = 64 << 10}, MakeSeededEntropy(1), nullptr);
  const auto entropy = MakeSeededEntropy(2);
  for (uint64_t i = 0; i < 500; ++i) {
    const bool dear = i % 10 == 0;
    const std::vector<float> key = i % 2 == 0 ? RandomKey(*entropy, 16) : std::vector<float>();
    cache.Keep(Key(i % 7, i), key, Answer(1, dear ? 100 : 1, 20), kNow);
    ASSERT_LE(cache.counts().bytes, 64 << 10);
  }
  int dear = 0, cheap = 0;
  for (uint64_t i = 400; i < 500; ++i) (i % 10 == 0 ? dear : cheap) += cache.Exact(Key(i % 7, i), kNow) != nullptr;
  EXPECT_EQ(dear, 10);
  EXPECT_LT(cheap, 90);
  EXPECT_GT(cache.counts().evicted, 300);
  cache.Keep(Key(1, 999), {}, Answer(1, 1e9, 1 << 14), kNow);  // larger than a quarter of all
  EXPECT_EQ(cache.Exact(Key(1, 999), kNow), nullptr);
}

TEST(ResponseCacheTest, ForgetsEverythingItIsToldToAndItsBytesWithIt) {
  ResponseCache cache({.ttl = absl::Seconds(1)}, MakeSeededEntropy(1), nullptr);
  const auto entropy = MakeSeededEntropy(2);
  for (uint64_t i = 0; i < 3000; ++i) cache.Keep(Key(i % 2, i), RandomKey(*entropy, 8), Answer(1), kNow);
  EXPECT_EQ(cache.counts().entries, 3000);
  EXPECT_EQ(cache.Exact(Key(9, 9), kNow + absl::Seconds(2)), nullptr);
  EXPECT_EQ(cache.counts().entries, 0);
  EXPECT_EQ(cache.counts().bytes, 0);
}

TEST(ResponseCacheTest, ManyMayUseItAtOnce) {
  Metrics metrics("tiny");
  ResponseCache cache({.most_bytes = 128 << 10, .error = 0.2}, MakeSeededEntropy(1), &metrics);
  std::vector<Thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back("user", [&cache, t] {
      const auto entropy = MakeSeededEntropy(t);
      for (uint64_t i = 0; i < 3000; ++i) {
        const AnswerKey key = Key(entropy->Next() % 3, entropy->Next() % 500);
        const auto kept = cache.Exact(key, kNow);
        EXPECT_TRUE(kept == nullptr || kept->tokens.size() == 4);
        const std::vector<float> embedding = RandomKey(*entropy, 8);
        const CacheFound found = cache.Nearest(key, embedding, 100, kNow);
        const KeptAnswer answer = Answer(static_cast<int32_t>(entropy->Next() % 5));
        if (found.kind == CacheFound::Kind::kTrial) cache.Compare(key, found, answer, true);
        cache.Keep(key, embedding, answer, kNow);
      }
    });
  }
  for (Thread& thread : threads) thread.Join();
  EXPECT_LE(cache.counts().bytes, 128 << 10);
  EXPECT_GT(cache.counts().evicted, 0);
}

}  // namespace
}  // namespace interlace
