// The tiers in this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/folder.h"
#include "tests/kvstore/tier_conformance.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using testing::_;
using testing::HasSubstr;

constexpr int64_t kLeast = 8 << 20;  // of a RocksDB folder

class MemoryUnderTest final : public TierUnderTest {
 public:
  explicit MemoryUnderTest(int64_t bytes) : tier_(*MakeMemoryTier(bytes)) {}
  KvTier& tier() override { return *tier_; }

 private:
  std::unique_ptr<KvTier> tier_;
};

class RocksdbUnderTest final : public TierUnderTest {
 public:
  explicit RocksdbUnderTest(int64_t bytes)
      : tier_(*MakeRocksdbTier({.rocksdb_dir = folder_.path(), .rocksdb_bytes = bytes})) {}
  KvTier& tier() override { return *tier_; }

 private:
  Folder folder_;
  std::unique_ptr<KvTier> tier_;
};

class LayeredUnderTest final : public TierUnderTest {
 public:
  explicit LayeredUnderTest(int64_t bytes)
      : tier_(MakeLayeredTier(*MakeMemoryTier(bytes / 4),
                              *MakeRocksdbTier({.rocksdb_dir = folder_.path(), .rocksdb_bytes = bytes}))) {}
  KvTier& tier() override { return *tier_; }

 private:
  Folder folder_;
  std::unique_ptr<KvTier> tier_;
};

template <typename T>
std::unique_ptr<TierUnderTest> Make(int64_t bytes) {
  return std::make_unique<T>(bytes);
}

INSTANTIATE_TEST_SUITE_P(Memory, TierConformance, testing::Values(TierCase{"memory", &Make<MemoryUnderTest>, 1 << 20}));
INSTANTIATE_TEST_SUITE_P(Rocksdb, TierConformance,
                         testing::Values(TierCase{"rocksdb", &Make<RocksdbUnderTest>, kLeast}));
INSTANTIATE_TEST_SUITE_P(Layered, TierConformance,
                         testing::Values(TierCase{"layered", &Make<LayeredUnderTest>, kLeast, /*write_behind=*/true}));

TEST(MemoryTierTest, NeedsACapacity) {
  EXPECT_THAT(MakeMemoryTier(0), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("host_bytes")));
}

TEST(LayeredTierTest, WhatLeftTheUpperTierComesFromTheLowerOneAndRises) {
  const Folder folder;
  auto upper = *MakeMemoryTier(100'000);
  KvTier& memory = *upper;
  const std::unique_ptr<KvTier> tier =
      MakeLayeredTier(std::move(upper), *MakeRocksdbTier({.rocksdb_dir = folder.path(), .rocksdb_bytes = kLeast}));
  std::vector<StoredBlock> blocks;
  for (uint64_t b = 0; b < 40; ++b) blocks.push_back(Stored(Key(1, 0, b), static_cast<int32_t>(b), 10'000));
  for (const StoredBlock& block : blocks) ASSERT_OK(PutAll(*tier, {block})[0]);
  EXPECT_LT(memory.Usage().blocks, 10);
  EXPECT_EQ(ProbeAll(*tier, KeysOf(blocks)), std::vector<bool>(40, true));
  const auto answers = GetAll(*tier, KeysOf(blocks));
  for (size_t i = 0; i < blocks.size(); ++i) {
    ASSERT_OK(answers[i]);
    EXPECT_EQ(**answers[i], *blocks[i].bytes);
  }
  ASSERT_OK(GetAll(*tier, {blocks[5].key})[0]);
  EXPECT_TRUE(ProbeAll(memory, {blocks[5].key})[0]);
}

TEST(RocksdbTierTest, NeedsAFolderAndACapacity) {
  EXPECT_THAT(MakeRocksdbTier({.rocksdb_bytes = kLeast}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rocksdb_dir")));
  EXPECT_THAT(MakeRocksdbTier({.rocksdb_dir = "/tmp/x", .rocksdb_bytes = kLeast - 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rocksdb_bytes")));
  EXPECT_THAT(MakeRocksdbTier({.rocksdb_dir = "/proc/none/such", .rocksdb_bytes = kLeast}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rocksdb_dir")));
}

TEST(RocksdbTierTest, AFolderHasOneOwner) {
  const Folder folder;
  const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = kLeast};
  auto first = MakeRocksdbTier(options);
  ASSERT_OK(first);
  ASSERT_OK(PutAll(**first, {Stored(Key(1, 0, 0), 0, 100)})[0]);
  EXPECT_THAT(MakeRocksdbTier(options), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(folder.path())));
  EXPECT_OK(GetAll(**first, {Key(1, 0, 0)})[0]);
}

TEST(RocksdbTierTest, BlocksOutliveTheTier) {
  const Folder folder;
  const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = 64 << 20};
  std::vector<StoredBlock> blocks;
  for (uint64_t b = 0; b < 200; ++b) blocks.push_back(Stored(Key(1, 0, b), static_cast<int32_t>(b), 1000 + 40 * b));
  int64_t bytes = 0;
  for (const StoredBlock& block : blocks) bytes += static_cast<int64_t>(block.bytes->size());
  for (const absl::Status& status : PutAll(**MakeRocksdbTier(options), blocks)) ASSERT_OK(status);
  for (int round = 0; round < 3; ++round) {
    const std::unique_ptr<KvTier> tier = *MakeRocksdbTier(options);
    EXPECT_EQ(tier->Usage().blocks, 200);
    EXPECT_EQ(tier->Usage().bytes, bytes);
    const auto answers = GetAll(*tier, KeysOf(blocks));
    for (size_t i = 0; i < blocks.size(); ++i) {
      ASSERT_OK(answers[i]);
      EXPECT_EQ(**answers[i], *blocks[i].bytes);
    }
    tier->Drop({Key(1, 0, 150)});
    ASSERT_OK(PutAll(*tier, {blocks[150]})[0]);  // dropped and put again survives, too
  }
}

// Blocks of a kind that one life after another brings and never reads again do not push out what is read in each.
TEST(RocksdbTierTest, WhatBlocksHaveEarnedOutlivesTheTier) {
  const Folder folder;
  const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = kLeast};
  const BlockKey read = Key(1, 0, 0);
  constexpr size_t kBytes = 256 << 10;
  {
    auto tier = MakeRocksdbTier(options);
    ASSERT_OK(tier);
    ASSERT_OK(PutAll(**tier, {Stored(read, 0, kBytes)})[0]);
    for (int i = 0; i < 8; ++i) ASSERT_OK(GetAll(**tier, {read})[0]);
  }
  auto tier = MakeRocksdbTier(options);
  ASSERT_OK(tier);
  // As many as fit twice, each stored once: they are worth less.
  for (uint64_t b = 0; b < kLeast / kBytes; ++b) (void)PutAll(**tier, {Stored(Key(2, 0, b), 0, kBytes)});
  EXPECT_OK(GetAll(**tier, {read})[0]);
}

TEST(RocksdbTierTest, AFolderThatIsNotOursIsRefusedAndNotTouched) {
  for (const absl::string_view name : {"notes.txt", "CURRENT", "db/CURRENT"}) {
    const Folder folder;
    const std::filesystem::path file = std::filesystem::path(folder.path()) / std::string(name);
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << "mine";
    EXPECT_THAT(MakeRocksdbTier({.rocksdb_dir = folder.path(), .rocksdb_bytes = kLeast}),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("not ours")));
    std::string text;
    std::ifstream(file) >> text;
    EXPECT_EQ(text, "mine");
    size_t files = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path())) {
      files += entry.is_regular_file();
    }
    EXPECT_EQ(files, 1u);
  }
}

TEST(RocksdbTierTest, AnOlderFormatIsClearedAndANewerOneRefused) {
  const Folder folder;
  const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = kLeast};
  ASSERT_OK(PutAll(**MakeRocksdbTier(options), {Stored(Key(1, 0, 0), 0, 100)})[0]);
  std::ofstream(folder.path() + "/notes.txt") << "beside ours";
  const std::string marker = folder.path() + "/INTERLACE_KV";
  std::ofstream(marker) << "interlace kv cache, format 4\n";
  EXPECT_THAT(MakeRocksdbTier(options), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("format 4")));
  std::ofstream(marker) << "interlace kv cache, format 2\n";
  EXPECT_EQ((*MakeRocksdbTier(options))->Usage().blocks, 1) << "the one before is read";
  std::ofstream(marker) << "interlace kv cache, format 1\n";
  {
    auto tier = MakeRocksdbTier(options);
    ASSERT_OK(tier);
    EXPECT_EQ((*tier)->Usage().blocks, 0);
    ASSERT_OK(PutAll(**tier, {Stored(Key(1, 0, 1), 0, 100)})[0]);
  }
  EXPECT_EQ((*MakeRocksdbTier(options))->Usage().blocks, 1);
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/notes.txt"));
}

TEST(RocksdbTierTest, ADamagedDatabaseIsCleared) {
  for (const absl::string_view prefix : {"MANIFEST", "CURRENT"}) {
    const Folder folder;
    const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = kLeast};
    ASSERT_OK(PutAll(**MakeRocksdbTier(options), {Stored(Key(1, 0, 0), 0, 100)})[0]);
    for (const auto& file : std::filesystem::directory_iterator(folder.path() + "/db")) {
      if (file.path().filename().string().rfind(std::string(prefix), 0) != 0) continue;
      std::ofstream(file.path(), std::ios::trunc) << "garbage that is no record";
    }
    auto tier = MakeRocksdbTier(options);
    ASSERT_OK(tier) << prefix;
    EXPECT_OK(PutAll(**tier, {Stored(Key(1, 0, 1), 0, 100)})[0]);
    EXPECT_OK(GetAll(**tier, {Key(1, 0, 1)})[0]);
  }
}

// The answer comes from a thread of the tier, so the caller never did the I/O itself.
TEST(RocksdbTierTest, TheCallerDoesNoIo) {
  const Folder folder;
  const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = kLeast};
  const std::thread::id caller = std::this_thread::get_id();
  for (uint64_t round = 0; round < 5; ++round) {
    auto tier = *MakeRocksdbTier(options);
    absl::Notification wrote, read;
    tier->Put({Stored(Key(1, 0, round), 0, 100)}, [&](auto) {
      EXPECT_NE(std::this_thread::get_id(), caller);
      wrote.Notify();
    });
    wrote.WaitForNotification();
    tier->Get({Key(1, 0, round)}, [&](auto) {
      EXPECT_NE(std::this_thread::get_id(), caller);
      read.Notify();
    });
    read.WaitForNotification();
  }
}

// Many times the bound passes through, dropped by name or given up: the folder never has more than its bound.
TEST(RocksdbTierTest, TheFolderStaysWithinItsBound) {
  for (const bool drop : {false, true}) {
    const Folder folder;
    constexpr int64_t kBound = kLeast;
    auto tier = *MakeRocksdbTier({.rocksdb_dir = folder.path(), .rocksdb_bytes = kBound});
    auto entropy = MakeSeededEntropy(drop);
    int64_t largest = 0, written = 0;
    int refused = 0, puts = 0;
    std::vector<BlockKey> held;
    while (written < 5 * kBound) {
      std::vector<StoredBlock> blocks;
      for (int b = 0; b < 16; ++b) {
        blocks.push_back(Stored(Key(1, 0, ++puts), 0, 1000 + entropy->Next() % 60000));
        written += static_cast<int64_t>(blocks.back().bytes->size());
        held.push_back(blocks.back().key);
      }
      for (const absl::Status& status : PutAll(*tier, std::move(blocks))) refused += !status.ok();
      GetAll(*tier, {held[entropy->Next() % held.size()]});
      if (drop && held.size() > 200) tier->Drop(std::exchange(held, {}));
      largest = std::max(largest, folder.Bytes());
    }
    EXPECT_LE(largest, kBound);
    EXPECT_LT(refused, puts / 10);
    if (!drop) {
      EXPECT_GT(tier->Usage().bytes, kBound * 4 / 10);
    }
    tier.reset();
    EXPECT_LE(folder.Bytes(), kBound);
  }
}

}  // namespace
}  // namespace interlace
