#include "tests/kvstore/tier_conformance.h"

#include <gmock/gmock.h>

#include <atomic>
#include <map>
#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
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

StoredBlock Block(const BlockKey& key, size_t bytes = kPayload) { return {key, EncodeBlock(key, Payload(key, bytes))}; }
std::vector<StoredBlock> Blocks(uint64_t generation, int32_t layers, uint64_t count) {
  std::vector<StoredBlock> blocks;
  for (int32_t layer = 0; layer < layers; ++layer) {
    for (uint64_t b = 0; b < count; ++b) blocks.push_back(Block(Key(generation, layer, b)));
  }
  return blocks;
}
std::vector<BlockKey> KeysOf(const std::vector<StoredBlock>& blocks) {
  std::vector<BlockKey> keys;
  for (const StoredBlock& block : blocks) keys.push_back(block.key);
  return keys;
}

}  // namespace

std::vector<absl::Status> WriteAll(KvTier& tier, std::vector<StoredBlock> blocks) {
  absl::Notification done;
  std::vector<absl::Status> statuses;
  tier.Write(std::move(blocks), [&](std::vector<absl::Status> answer) {
    statuses = std::move(answer);
    done.Notify();  // twice would abort
  });
  done.WaitForNotification();
  return statuses;
}

std::vector<absl::StatusOr<SharedBytes>> ReadAll(KvTier& tier, std::vector<BlockKey> keys) {
  absl::Notification done;
  std::vector<absl::StatusOr<SharedBytes>> answers;
  tier.Read(std::move(keys), [&](std::vector<absl::StatusOr<SharedBytes>> answer) {
    answers = std::move(answer);
    done.Notify();
  });
  done.WaitForNotification();
  return answers;
}

TEST_P(TierConformance, RoundTrip) {
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  EXPECT_EQ(tier.name(), GetParam().name);
  const std::vector<StoredBlock> blocks = Blocks(7, 4, 16);
  for (const absl::Status& status : WriteAll(tier, blocks)) EXPECT_OK(status);
  const auto answers = ReadAll(tier, KeysOf(blocks));
  ASSERT_EQ(answers.size(), blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) {
    ASSERT_OK(answers[i]);
    EXPECT_EQ(**answers[i], *blocks[i].bytes);
  }
  const TierUsage usage = under_test->UsageNow();
  EXPECT_EQ(usage.blocks, 64);
  EXPECT_EQ(usage.bytes, 64 * kStored);
  EXPECT_EQ(usage.capacity_bytes, kRoomy);
}

TEST_P(TierConformance, EmptyBatchesAreAnswered) {
  auto under_test = GetParam().make(kRoomy);
  EXPECT_TRUE(WriteAll(under_test->tier(), {}).empty());
  EXPECT_TRUE(ReadAll(under_test->tier(), {}).empty());
}

TEST_P(TierConformance, MissingKeysAreNotFoundAmongOthers) {
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  const StoredBlock stored = Block(Key(1, 1, 1));
  ASSERT_OK(WriteAll(tier, {stored})[0]);
  const auto answers = ReadAll(tier, {Key(2, 1, 1), Key(1, 2, 1), stored.key, Key(1, 1, 2)});
  ASSERT_EQ(answers.size(), 4u);
  for (size_t i : {0, 1, 3}) EXPECT_THAT(answers[i], StatusIs(absl::StatusCode::kNotFound, testing::_));
  ASSERT_OK(answers[2]);
  EXPECT_EQ(**answers[2], *stored.bytes);
}

TEST_P(TierConformance, AWriteReplaces) {
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  const BlockKey key = Key(1, 1, 1);
  for (size_t bytes : {size_t{1000}, size_t{10}, size_t{5000}, size_t{0}}) {
    const StoredBlock block = Block(key, bytes);
    ASSERT_OK(WriteAll(tier, {block})[0]);
    const auto answers = ReadAll(tier, {key});
    ASSERT_OK(answers[0]);
    EXPECT_EQ(**answers[0], *block.bytes);
    EXPECT_EQ(under_test->UsageNow().bytes, static_cast<int64_t>(block.bytes->size()));
    EXPECT_EQ(under_test->UsageNow().blocks, 1);
  }
}

TEST_P(TierConformance, FullRefusesPartOfABatchAndNeverExceeds) {
  auto under_test = GetParam().make(10 * kStored + kStored / 2);
  KvTier& tier = under_test->tier();
  const std::vector<StoredBlock> blocks = Blocks(1, 1, 15);
  const std::vector<absl::Status> statuses = WriteAll(tier, blocks);
  ASSERT_EQ(statuses.size(), 15u);
  const auto answers = ReadAll(tier, KeysOf(blocks));
  int taken = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    taken += statuses[i].ok();
    EXPECT_EQ(answers[i].ok(), statuses[i].ok());
    if (!statuses[i].ok()) {
      EXPECT_THAT(statuses[i], StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
    }
  }
  EXPECT_EQ(taken, 10);
  EXPECT_LE(under_test->UsageNow().bytes, under_test->UsageNow().capacity_bytes);
  // Full, a block of the same size still replaces; a larger one does not, and what is held stays as it was or goes.
  EXPECT_OK(WriteAll(tier, {blocks[0]})[0]);
  EXPECT_THAT(WriteAll(tier, {Block(blocks[0].key, 2 * kPayload)})[0],
              StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
  const auto left = ReadAll(tier, {blocks[0].key});
  if (left[0].ok()) {
    EXPECT_EQ(**left[0], *blocks[0].bytes);
  }
  // Room that was given back is usable.
  tier.Drop(Generation{1});
  EXPECT_OK(WriteAll(tier, {Block(Key(2, 0, 0), 2 * kPayload)})[0]);
}

TEST_P(TierConformance, DropForgetsOneGenerationDownToZero) {
  auto under_test = GetParam().make(kRoomy);
  KvTier& tier = under_test->tier();
  const uint64_t last = ~uint64_t{0};
  for (uint64_t generation : {uint64_t{0}, uint64_t{4}, uint64_t{5}, uint64_t{6}, last}) {
    for (const absl::Status& status : WriteAll(tier, Blocks(generation, 3, 8))) ASSERT_OK(status);
  }
  const std::vector<BlockKey> dropped = KeysOf(Blocks(5, 3, 8));
  tier.Drop(Generation{5});
  tier.Drop(Generation{99});  // not there
  for (const auto& answer : ReadAll(tier, dropped)) {
    EXPECT_THAT(answer, StatusIs(absl::StatusCode::kNotFound, testing::_));
  }
  for (uint64_t generation : {uint64_t{0}, uint64_t{4}, uint64_t{6}, last}) {
    for (const auto& answer : ReadAll(tier, KeysOf(Blocks(generation, 3, 8)))) EXPECT_OK(answer);
  }
  EXPECT_EQ(under_test->UsageNow().blocks, 4 * 24);
  for (uint64_t generation : {uint64_t{0}, uint64_t{4}, uint64_t{6}, last}) tier.Drop(Generation{generation});
  EXPECT_EQ(under_test->UsageNow().blocks, 0);
  EXPECT_EQ(under_test->UsageNow().bytes, 0);
  // The name may be used again: nothing of before comes back, nothing of after is lost.
  const StoredBlock again = Block(Key(5, 0, 0), 77);
  ASSERT_OK(WriteAll(tier, {again})[0]);
  const auto answers = ReadAll(tier, {again.key, Key(5, 0, 1)});
  ASSERT_OK(answers[0]);
  EXPECT_EQ(**answers[0], *again.bytes);
  EXPECT_THAT(answers[1], StatusIs(absl::StatusCode::kNotFound, testing::_));
}

// Many calls at once from several threads: each is answered once, and what was taken is read back as it was written.
TEST_P(TierConformance, ConcurrentUse) {
  constexpr int kThreads = 4, kRounds = 60;
  auto under_test = GetParam().make(300 * kStored);
  KvTier& tier = under_test->tier();
  std::atomic<int> open{0}, twice{0};
  {
    std::vector<Thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back("user", [&, t] {
        auto entropy = MakeSeededEntropy(t);
        std::map<std::string, StoredBlock> taken;
        for (int round = 0; round < kRounds; ++round) {
          const uint64_t generation = 10 * t + entropy->Next() % 3;
          // Reads that nobody waits for run beside all else.
          open += 1;
          auto answered = std::make_shared<std::atomic<int>>(0);
          tier.Read(KeysOf(Blocks(generation, 2, 3)), [&, answered](auto answers) {
            if (answered->fetch_add(1) > 0 || answers.size() != 6) ++twice;
            --open;
          });
          if (entropy->Next() % 5 == 0) {
            tier.Drop(Generation{generation});
            std::erase_if(taken,
                          [&](const auto& held) { return held.second.key.generation == Generation{generation}; });
          }
          std::vector<StoredBlock> blocks;
          for (int b = 0; b < 8; ++b) blocks.push_back(Block(Key(generation, 0, 8 * (entropy->Next() % 4) + b)));
          const std::vector<absl::Status> statuses = WriteAll(tier, blocks);
          for (size_t i = 0; i < blocks.size(); ++i) {
            if (statuses[i].ok()) taken[EncodeKey(blocks[i].key)] = blocks[i];
          }
          EXPECT_LE(tier.Usage().bytes, tier.Usage().capacity_bytes);
          for (const auto& [name, block] : taken) {
            const auto answers = ReadAll(tier, {block.key});
            ASSERT_OK(answers[0]);
            ASSERT_EQ(**answers[0], *block.bytes);
            if (entropy->Next() % 4) break;
          }
        }
        for (uint64_t g = 0; g < 3; ++g) tier.Drop(Generation{10 * t + g});
      });
    }
  }
  EXPECT_EQ(under_test->UsageNow().bytes, 0);
  EXPECT_EQ(under_test->UsageNow().blocks, 0);
  under_test.reset();
  EXPECT_EQ(open.load(), 0) << "calls were never answered";
  EXPECT_EQ(twice.load(), 0);
}

// Calls in flight when the tier is destroyed are answered all the same.
TEST_P(TierConformance, DestructionAnswersWhatIsInFlight) {
  std::atomic<int> answered{0};
  auto under_test = GetParam().make(kRoomy);
  const std::vector<StoredBlock> blocks = Blocks(1, 1, 4);
  for (int i = 0; i < 50; ++i) {
    under_test->tier().Write(blocks, [&](auto statuses) { answered += statuses.size() == 4; });
    under_test->tier().Read(KeysOf(blocks), [&](auto answers) { answered += answers.size() == 4; });
  }
  under_test.reset();
  EXPECT_EQ(answered.load(), 100);
}

}  // namespace interlace
