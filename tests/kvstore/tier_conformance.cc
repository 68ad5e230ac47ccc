#include "tests/kvstore/tier_conformance.h"

#include <gmock/gmock.h>

#include <atomic>
#include <map>
#include <utility>

#include "common/entropy.h"
#include "common/thread.h"
#include "kvstore/block_codec.h"
#include "tests/kvstore/blocks.h"
#include "tests/status_matchers.h"

namespace interlace {

namespace {

constexpr size_t kPayload = 1000;
constexpr int64_t kStored = kPayload + kBlockHeaderBytes;
constexpr int64_t kRoomy = 64 << 20;

std::vector<StoredBlock> Blocks(uint64_t chain, int32_t layers, uint64_t count, size_t bytes = kPayload) {
  std::vector<StoredBlock> blocks;
  for (uint64_t b = 0; b < count; ++b) {
    for (int32_t layer = 0; layer < layers; ++layer) {
      blocks.push_back(Stored(Key(chain, layer, b), static_cast<int32_t>(b), bytes));
    }
  }
  return blocks;
}

TEST_P(TierConformance, RoundTrip) {
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  EXPECT_EQ(tier.name(), GetParam().name);
  EXPECT_TRUE(tier.Wants());
  const std::vector<StoredBlock> blocks = Blocks(7, 4, 16);
  for (const absl::Status& status : PutAll(tier, blocks)) EXPECT_OK(status);
  EXPECT_EQ(ProbeAll(tier, KeysOf(blocks)), std::vector<bool>(64, true));
  const auto answers = GetAll(tier, KeysOf(blocks));
  ASSERT_EQ(answers.size(), blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    ASSERT_OK(answers[i]);
    EXPECT_EQ(**answers[i], *blocks[i].bytes);
  }
  const TierUsage usage = under_test->UsageNow();
  EXPECT_EQ(usage.blocks, 64);
  EXPECT_EQ(usage.bytes, 64 * kStored);
  EXPECT_GE(usage.capacity_bytes, usage.bytes);
  EXPECT_LE(usage.capacity_bytes, kRoomy);
}

TEST_P(TierConformance, EmptyBatchesAreAnswered) {
  auto under_test = GetParam().make(kRoomy);
  EXPECT_TRUE(PutAll(under_test->tier(), {}).empty());
  EXPECT_TRUE(GetAll(under_test->tier(), {}).empty());
  EXPECT_TRUE(ProbeAll(under_test->tier(), {}).empty());
}

TEST_P(TierConformance, MissingKeysAreNotFoundAmongOthers) {
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  const StoredBlock stored = Stored(Key(1, 1, 1), 1, kPayload);
  ASSERT_OK(PutAll(tier, {stored})[0]);
  BlockKey other_heads = stored.key;
  other_heads.heads.end = 8;
  const std::vector<BlockKey> keys = {Key(2, 1, 1), Key(1, 2, 1), stored.key, Key(1, 1, 2), other_heads};
  EXPECT_EQ(ProbeAll(tier, keys), (std::vector<bool>{false, false, true, false, false}));
  const auto answers = GetAll(tier, keys);
  ASSERT_EQ(answers.size(), keys.size());
  for (size_t i : {0, 1, 3, 4}) EXPECT_THAT(answers[i], StatusIs(absl::StatusCode::kNotFound, testing::_));
  ASSERT_OK(answers[2]);
  EXPECT_EQ(**answers[2], *stored.bytes);
}

// A key stands for its bytes: whoever puts it again is told that it is held, and it counts once.
TEST_P(TierConformance, ASecondPutChangesNothing) {
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  const StoredBlock block = Stored(Key(1, 1, 1), 1, kPayload);
  for (int round = 0; round < 4; ++round) {
    for (const absl::Status& status : PutAll(tier, {block, block})) ASSERT_OK(status);
    const auto answers = GetAll(tier, {block.key});
    ASSERT_OK(answers[0]);
    EXPECT_EQ(**answers[0], *block.bytes);
    EXPECT_EQ(under_test->UsageNow().bytes, kStored);
    EXPECT_EQ(under_test->UsageNow().blocks, 1);
  }
}

TEST_P(TierConformance, DropForgetsTheseKeysDownToZero) {
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  const std::vector<StoredBlock> gone = Blocks(5, 3, 8), stay = Blocks(6, 3, 8);
  for (const auto& blocks : {gone, stay}) {
    for (const absl::Status& status : PutAll(tier, blocks)) ASSERT_OK(status);
  }
  tier.Drop(KeysOf(gone));
  tier.Drop({Key(99, 0, 0)});  // not there
  for (const auto& answer : GetAll(tier, KeysOf(gone))) {
    EXPECT_THAT(answer, StatusIs(absl::StatusCode::kNotFound, testing::_));
  }
  for (const auto& answer : GetAll(tier, KeysOf(stay))) EXPECT_OK(answer);
  EXPECT_EQ(under_test->UsageNow().blocks, 24);
  tier.Drop(KeysOf(stay));
  EXPECT_EQ(under_test->UsageNow().blocks, 0);
  EXPECT_EQ(under_test->UsageNow().bytes, 0);
  // What was dropped may come again.
  for (const absl::Status& status : PutAll(tier, gone)) EXPECT_OK(status);
  for (const auto& answer : GetAll(tier, KeysOf(gone))) EXPECT_OK(answer);
}

// Four times its capacity goes through a tier: its bound holds at every moment, and it keeps on taking.
TEST_P(TierConformance, ItsBoundHoldsAndTheNewestIsTaken) {
  auto under_test = GetParam().make(GetParam().least_bytes);
  KvTier& tier = under_test->tier();
  const int64_t capacity = under_test->UsageNow().capacity_bytes;
  ASSERT_GT(capacity, 0);
  constexpr size_t kLarge = 30000;
  const auto count = static_cast<uint64_t>(4 * capacity / static_cast<int64_t>(kLarge));
  uint64_t taken = 0;
  for (uint64_t b = 0; b < count; ++b) {
    const StoredBlock block = Stored(Key(1, 0, b), 0, kLarge);
    const absl::Status status = PutAll(tier, {block})[0];
    const TierUsage usage = under_test->UsageNow();
    ASSERT_LE(usage.bytes, usage.capacity_bytes);
    if (!status.ok()) {
      ASSERT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
      continue;
    }
    ++taken;
    const auto answers = GetAll(tier, {block.key});
    if (answers[0].ok()) {
      EXPECT_EQ(**answers[0], *block.bytes);
    }
  }
  EXPECT_GE(taken, count * 9 / 10);
  if (GetParam().write_behind) return;
  EXPECT_GE(under_test->UsageNow().bytes, capacity / 2) << "blocks were given up that there was room for";
}

TEST_P(TierConformance, ABlockThatIsReadOutlivesThoseThatAreNot) {
  auto under_test = GetParam().make(GetParam().least_bytes);
  KvTier& tier = under_test->tier();
  constexpr size_t kLarge = 30000;
  const StoredBlock wanted = Stored(Key(9, 0, 0), 0, kLarge);
  ASSERT_OK(PutAll(tier, {wanted})[0]);
  const auto count = static_cast<uint64_t>(3 * under_test->UsageNow().capacity_bytes / static_cast<int64_t>(kLarge));
  for (uint64_t b = 0; b < count; ++b) {
    PutAll(tier, {Stored(Key(1, 0, b), 0, kLarge)});
    if (b % 4 == 0) {
      ASSERT_OK(GetAll(tier, {wanted.key})[0]) << "after " << b << " others";
    }
  }
}

TEST_P(TierConformance, ABlockLargerThanTheTierIsRefused) {
  auto under_test = GetParam().make(GetParam().least_bytes);
  KvTier& tier = under_test->tier();
  const StoredBlock small = Stored(Key(1, 0, 0), 0, kPayload);
  ASSERT_OK(PutAll(tier, {small})[0]);
  const auto size = static_cast<size_t>(under_test->UsageNow().capacity_bytes);
  EXPECT_THAT(PutAll(tier, {Stored(Key(1, 0, 1), 1, size)})[0],
              StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
  EXPECT_OK(GetAll(tier, {small.key})[0]);
}

// Many calls at once from several threads: each is answered once, and what is answered is what was put.
TEST_P(TierConformance, ConcurrentUse) {
  constexpr int kThreads = 4, kRounds = 60;
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  std::atomic<int> open{0}, twice{0};
  {
    std::vector<Thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back("user", [&, t] {
        auto entropy = MakeSeededEntropy(t);
        for (int round = 0; round < kRounds; ++round) {
          const uint64_t chain = entropy->Next() % 5;  // shared by all threads
          // Reads that nobody waits for run beside all else.
          open += 1;
          auto answered = std::make_shared<std::atomic<int>>(0);
          tier.Get(KeysOf(Blocks(chain, 2, 3)), [&, answered](auto answers) {
            if (answered->fetch_add(1) > 0 || answers.size() != 6) ++twice;
            --open;
          });
          if (entropy->Next() % 5 == 0) tier.Drop(KeysOf(Blocks(chain, 2, 4)));
          const std::vector<StoredBlock> blocks = Blocks(chain, 2, 1 + entropy->Next() % 8);
          PutAll(tier, blocks);
          const auto answers = GetAll(tier, KeysOf(blocks));
          for (size_t i = 0; i < blocks.size(); ++i) {
            if (!answers[i].ok()) continue;
            ASSERT_EQ(**answers[i], *blocks[i].bytes);
          }
          EXPECT_LE(tier.Usage().bytes, tier.Usage().capacity_bytes);
        }
      });
    }
  }
  under_test.reset();
  EXPECT_EQ(open.load(), 0) << "calls were never answered";
  EXPECT_EQ(twice.load(), 0);
}

// Calls in flight when the tier is destroyed are answered all the same.
TEST_P(TierConformance, DestructionAnswersWhatIsInFlight) {
  std::atomic<int> answered{0};
  auto under_test = GetParam().make(kRoomy);
  for (uint64_t i = 0; i < 50; ++i) {
    const std::vector<StoredBlock> blocks = Blocks(i, 1, 4);
    under_test->tier().Put(blocks, [&](auto statuses) { answered += statuses.size() == 4; });
    under_test->tier().Get(KeysOf(blocks), [&](auto answers) { answered += answers.size() == 4; });
    under_test->tier().Probe(KeysOf(blocks), [&](auto held) { answered += held.size() == 4; });
  }
  under_test.reset();
  EXPECT_EQ(answered.load(), 150);
}

}  // namespace
}  // namespace interlace
