// The tiers in this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/block_ledger.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/tier_conformance.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using testing::HasSubstr;

class HostUnderTest final : public TierUnderTest {
 public:
  explicit HostUnderTest(int64_t capacity_bytes) : tier_(*MakeHostTier({.host_bytes = capacity_bytes})) {}
  KvTier& tier() override { return *tier_; }

 private:
  std::unique_ptr<KvTier> tier_;
};

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    static int made = 0;
    path_ = absl::StrCat(testing::TempDir(), "interlace_tier_", ::getpid(), "_", made++);
    std::filesystem::remove_all(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class RocksdbUnderTest final : public TierUnderTest {
 public:
  explicit RocksdbUnderTest(int64_t capacity_bytes)
      : tier_(*MakeRocksdbTier({.rocksdb_dir = folder_.path(), .rocksdb_bytes = capacity_bytes})) {}
  KvTier& tier() override { return *tier_; }

 private:
  Folder folder_;
  std::unique_ptr<KvTier> tier_;
};

template <typename T>
std::unique_ptr<TierUnderTest> Make(int64_t capacity_bytes) {
  return std::make_unique<T>(capacity_bytes);
}

INSTANTIATE_TEST_SUITE_P(Host, TierConformance, testing::Values(TierCase{"host", &Make<HostUnderTest>}));
INSTANTIATE_TEST_SUITE_P(Rocksdb, TierConformance, testing::Values(TierCase{"rocksdb", &Make<RocksdbUnderTest>}));

StoredBlock Block(const BlockKey& key, size_t bytes) { return {key, EncodeBlock(key, Payload(key, bytes))}; }

TEST(HostTierTest, NeedsACapacity) {
  EXPECT_THAT(MakeHostTier({}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("host_bytes")));
}

TEST(RocksdbTierTest, NeedsAFolderAndACapacity) {
  EXPECT_THAT(MakeRocksdbTier({.rocksdb_bytes = 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rocksdb_dir")));
  EXPECT_THAT(MakeRocksdbTier({.rocksdb_dir = "/tmp/x"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rocksdb_bytes")));
  EXPECT_THAT(MakeRocksdbTier({.rocksdb_dir = "/proc/none/such", .rocksdb_bytes = 1}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rocksdb_dir")));
}

TEST(RocksdbTierTest, AFolderHasOneOwner) {
  const Folder folder;
  const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = 1 << 20};
  auto first = MakeRocksdbTier(options);
  ASSERT_OK(first);
  ASSERT_OK(WriteAll(**first, {Block(Key(1, 0, 0), 100)})[0]);
  EXPECT_THAT(MakeRocksdbTier(options), StatusIs(absl::StatusCode::kUnavailable, HasSubstr(folder.path())));
  EXPECT_OK(ReadAll(**first, {Key(1, 0, 0)})[0]);
}

TEST(RocksdbTierTest, StartsEmptyAndLeavesForeignFilesAlone) {
  const Folder folder;
  const TierOptions options{.rocksdb_dir = folder.path() + "/deep/er", .rocksdb_bytes = 1 << 20};
  std::filesystem::create_directories(options.rocksdb_dir);
  std::ofstream(options.rocksdb_dir + "/notes.txt") << "mine";
  for (int round = 0; round < 2; ++round) {
    auto tier = MakeRocksdbTier(options);
    ASSERT_OK(tier);
    EXPECT_EQ((*tier)->Usage().blocks, 0);
    EXPECT_THAT(ReadAll(**tier, {Key(1, 0, 0)})[0], StatusIs(absl::StatusCode::kNotFound, testing::_));
    ASSERT_OK(WriteAll(**tier, {Block(Key(1, 0, 0), 100)})[0]);
  }
  EXPECT_TRUE(std::filesystem::exists(options.rocksdb_dir + "/notes.txt"));
}

// The answer comes from a thread of the tier, so the caller never did the I/O itself.
TEST(RocksdbTierTest, TheCallerDoesNoIo) {
  const Folder folder;
  auto tier = *MakeRocksdbTier({.rocksdb_dir = folder.path(), .rocksdb_bytes = 1 << 20});
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 20; ++round) {
    absl::Notification wrote, read;
    tier->Write({Block(Key(1, 0, round), 100)}, [&](auto) {
      EXPECT_NE(std::this_thread::get_id(), caller);
      wrote.Notify();
    });
    wrote.WaitForNotification();
    tier->Read({Key(1, 0, round)}, [&](auto) {
      EXPECT_NE(std::this_thread::get_id(), caller);
      read.Notify();
    });
    read.WaitForNotification();
  }
}

// Dropped blocks leave the disk: many times the capacity passes through, and the folder stays within its bound.
TEST(RocksdbTierTest, DroppedBlocksLeaveTheDisk) {
  const Folder folder;
  constexpr int64_t kCapacity = 16 << 20;
  auto tier = *MakeRocksdbTier({.rocksdb_dir = folder.path(), .rocksdb_bytes = kCapacity});
  int64_t largest = 0;
  int refused = 0;
  for (uint64_t generation = 0; generation < 24; ++generation) {
    std::vector<StoredBlock> blocks;
    for (uint64_t b = 0; b < 15; ++b) blocks.push_back(Block(Key(generation, 0, b), 1 << 20));
    for (const absl::Status& status : WriteAll(*tier, blocks)) refused += !status.ok();
    tier->Drop(Generation{generation});
    int64_t on_disk = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
      std::error_code gone;
      const auto size = entry.file_size(gone);
      if (!gone) on_disk += static_cast<int64_t>(size);
    }
    largest = std::max(largest, on_disk);
  }
  // Capacity, as much garbage, and the slack of 64 MiB, and what one batch may add: far below the 360 MiB written.
  EXPECT_LE(largest, 2 * kCapacity + (64 << 20) + kCapacity);
  EXPECT_LT(refused, 24 * 15);
}

TEST(BlockLedgerTest, WritesInFlightNeverExceedTogether) {
  BlockLedger ledger(100);
  const BlockKey a = Key(1, 0, 0), b = Key(1, 0, 1), c = Key(2, 0, 0);
  EXPECT_OK(ledger.Begin(a, 60));
  EXPECT_THAT(ledger.Begin(b, 60), StatusIs(absl::StatusCode::kResourceExhausted, testing::_));
  EXPECT_FALSE(ledger.Holds(a));
  ledger.End(a, true);
  EXPECT_TRUE(ledger.Holds(a));
  EXPECT_OK(ledger.Begin(c, 40));
  ledger.End(c, false);  // the disk failed: its room comes back
  EXPECT_EQ(ledger.Usage().bytes, 60);
  EXPECT_OK(ledger.Begin(a, 100));  // in place of its 60
  EXPECT_TRUE(ledger.Drop(Generation{1}));
  ledger.End(a, true);  // landed after the drop: stays forgotten
  EXPECT_FALSE(ledger.Holds(a));
  EXPECT_FALSE(ledger.Awaits(a));
  EXPECT_EQ(ledger.Usage().bytes, 0);
  EXPECT_EQ(ledger.Usage().blocks, 0);
  EXPECT_FALSE(ledger.Drop(Generation{1}));
}

}  // namespace
}  // namespace interlace
