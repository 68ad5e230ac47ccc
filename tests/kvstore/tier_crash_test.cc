// The rocksdb tier on disks that fail, and in a process that is killed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/env.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/log.h"
#include "kvstore/tier/rocksdb.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/faulty_files.h"
#include "tests/kvstore/folder.h"
#include "tests/kvstore/kill_count.h"
#include "tests/kvstore/tier_calls.h"
#include "tests/status_matchers.h"
#include "tests/transport/child_process.h"
#include "tests/transport/waiting.h"

namespace interlace {
namespace {

using testing::_;

uint64_t Acks(const std::string& path) {
  std::error_code none;
  const auto size = std::filesystem::file_size(path, none);
  return none ? 0 : size / sizeof(uint64_t);
}

// A writer that keeps its latest `kept` blocks and some older ones, or leaves it to the tier which ones if that is 0,
// is killed again and again, between nothing and some hundred blocks after its start. Each one that starts verifies
// what it finds; the folder is within its bound all the time.
void KillWriters(int kept) {
  const Folder folder, notes;
  std::filesystem::create_directories(notes.path());
  const std::string acks = notes.path() + "/acks";
  constexpr int64_t kBound = 16 << 20;
  auto entropy = MakeSeededEntropy(11);
  const int kills = KillCount(100);
  int64_t largest = 0;
  for (int kill = 0; kill < kills; ++kill) {
    ChildProcess child(TIER_WRITER, {folder.path(), std::to_string(kBound), acks, std::to_string(kept)});
    ASSERT_TRUE(child.started());
    const uint64_t until = kill % 5 == 0 ? 0 : Acks(acks) + entropy->Next() % 120;
    const absl::Time deadline = absl::Now() + kPatience;
    if (until == 0) {  // somewhere in its start
      for (uint64_t turns = entropy->Next() % 20000; turns > 0; --turns) std::this_thread::yield();
    }
    while (Acks(acks) < until && absl::Now() < deadline && child.Running()) {
      largest = std::max(largest, folder.Bytes());
    }
    child.Signal(SIGKILL);
    const int status = child.Wait();
    ASSERT_TRUE(WIFSIGNALED(status)) << "kill " << kill << ": exit " << WEXITSTATUS(status);
    largest = std::max(largest, folder.Bytes());
    ASSERT_LE(largest, kBound);
  }
  EXPECT_GT(Acks(acks), 10u * kills);
  std::printf(
      "figures: kills of a RocksDB writer that keeps %d, blocks answered OK, largest folder of %ld bytes: "
      "%d, %lu, %ld\n",
      kept, kBound, kills, Acks(acks), largest);
}

// 240 blocks of at most 32 KB are less than the half of the bound that the tier fills with blocks, so it evicts none.
TEST(RocksdbCrashTest, AKilledProcessLosesNoBlockThatWasAnswered) { KillWriters(/*kept=*/120); }

// The tier is full, and which blocks it evicts is its own matter; those that it has are right.
TEST(RocksdbCrashTest, AKilledProcessLeavesRightBlocks) { KillWriters(/*kept=*/0); }

class SickDiskTest : public testing::TestWithParam<WriteFault> {};
INSTANTIATE_TEST_SUITE_P(Faults, SickDiskTest,
                         testing::Values(WriteFault::kNoSpace, WriteFault::kIo, WriteFault::kFull));

bool WaitUntil(const std::function<bool()>& holds) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (!holds() && absl::Now() < deadline) std::this_thread::yield();
  return holds();
}

// While writes fail, puts are Unavailable, reads go on and nobody is asked to encode; afterwards the tier heals by
// itself, and what was answered OK before, between and after is right, now and after a restart.
TEST_P(SickDiskTest, SaysSoAndHeals) {
  const Folder folder;
  auto files = std::make_shared<FaultyFiles>();
  const std::unique_ptr<rocksdb::Env> env = rocksdb::NewCompositeEnv(files);
  const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = 64 << 20};
  auto tier = *MakeRocksdbTierOn(options, env.get());
  std::vector<StoredBlock> kept;
  uint64_t block = 0;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20; ++i) {
      kept.push_back(Stored(Key(1, 0, ++block), 0, 20000));
      ASSERT_OK(PutAll(*tier, {kept.back()})[0]);
    }
    files->Fail(GetParam());
    EXPECT_THAT(PutAll(*tier, {Stored(Key(2, 0, ++block), 0, 20000)})[0], StatusIs(absl::StatusCode::kUnavailable, _));
    EXPECT_FALSE(tier->Wants());
    EXPECT_THAT(PutAll(*tier, {Stored(Key(2, 0, ++block), 0, 20000)})[0], StatusIs(absl::StatusCode::kUnavailable, _));
    EXPECT_EQ(ProbeAll(*tier, {Key(2, 0, block)})[0], false);
    const int64_t failed = files->failed();
    if (round > 0) {
      EXPECT_TRUE(WaitUntil([&] { return files->failed() > failed + 1; })) << "it never tries again";
    } else {
      EXPECT_OK(GetAll(*tier, {kept[3].key})[0]);
    }
    files->Fail(WriteFault::kNone);
    ASSERT_TRUE(WaitUntil([&] { return tier->Wants(); }));
    kept.push_back(Stored(Key(1, 0, ++block), 0, 20000));
    ASSERT_OK(PutAll(*tier, {kept.back()})[0]);
  }
  for (int life = 0; life < 2; ++life) {
    const auto answers = GetAll(*tier, KeysOf(kept));
    for (size_t i = 0; i < kept.size(); ++i) {
      ASSERT_OK(answers[i]);
      EXPECT_EQ(**answers[i], *kept[i].bytes);
    }
    tier.reset();
    tier = *MakeRocksdbTierOn(options, env.get());
  }
}

// A cache that cannot be opened now keeps no rank from starting: it takes nothing until the disk is well, and has what
// it had before.
TEST_P(SickDiskTest, StartsWithoutTheDisk) {
  const Folder folder;
  auto files = std::make_shared<FaultyFiles>();
  const std::unique_ptr<rocksdb::Env> env = rocksdb::NewCompositeEnv(files);
  const TierOptions options{.rocksdb_dir = folder.path(), .rocksdb_bytes = 64 << 20};
  std::vector<StoredBlock> kept;
  for (uint64_t life = 0; life < 3; ++life) {
    files->Fail(GetParam());
    auto made = MakeRocksdbTierOn(options, env.get());
    ASSERT_OK(made);
    KvTier& tier = **made;
    EXPECT_FALSE(tier.Wants());
    const StoredBlock block = Stored(Key(1, 0, life), 0, 20000);
    EXPECT_THAT(PutAll(tier, {block})[0], StatusIs(absl::StatusCode::kUnavailable, _));
    EXPECT_EQ(ProbeAll(tier, {Key(1, 0, 0)})[0], false);
    files->Fail(WriteFault::kNone);
    ASSERT_TRUE(WaitUntil([&] { return tier.Wants(); }));
    for (const StoredBlock& former : kept) {
      const auto answer = GetAll(tier, {former.key})[0];
      ASSERT_OK(answer);
      EXPECT_EQ(**answer, *former.bytes);
    }
    ASSERT_OK(PutAll(tier, {block})[0]);
    kept.push_back(block);
  }
}

// A process that was killed while it marked its new folder finds its own folder.
TEST(RocksdbFolderTest, AHalfWrittenMarkIsOurs) {
  for (const char* mark : {"", "interlace kv ca"}) {
    const Folder folder;
    std::filesystem::create_directories(folder.path());
    std::ofstream(folder.path() + "/INTERLACE_KV") << mark;
    ASSERT_OK(MakeRocksdbTier({.rocksdb_dir = folder.path(), .rocksdb_bytes = 64 << 20})) << "'" << mark << "'";
  }
}

// What is logged with `word` in it, while this lives.
class LogLines {
 public:
  explicit LogLines(std::string word) {
    SetLogSink(
        [this, word = std::move(word)](const LogEvent& event) {
          absl::MutexLock lock(&mutex_);
          if (absl::StrContains(event.text, word)) lines_.push_back(event.text);
        },
        LogLevel::kInfo);
  }
  ~LogLines() { SetLogSink(nullptr, LogLevel::kInfo); }
  std::vector<std::string> lines() {
    absl::MutexLock lock(&mutex_);
    return lines_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> lines_;  // protected by mutex_
};

// A file system of its own in memory, if that is allowed here.
struct SmallDisk {
  std::string path;
  bool mounted;
  SmallDisk(std::string where, const char* size) : path(std::move(where)) {
    std::filesystem::create_directories(path);
    mounted = mount("tmpfs", path.c_str(), "tmpfs", 0, size) == 0;
  }
  ~SmallDisk() {
    if (mounted) {
      EXPECT_EQ(umount(path.c_str()), 0);
    }
  }
};
constexpr char kNoMount[] = "mounting a file system is not allowed here; SickDiskTest covers its errors";

// Puts new blocks and reads each; how many were taken. Who puts asks whether the tier wants any: a tier that collects
// garbage says no for as long as that takes, and a loop that went on would count how fast it is refused.
enum class Asks : bool { kNo, kFirst };
int PutAndRead(KvTier& tier, int count, uint64_t* block, Asks asks = Asks::kFirst) {
  int taken = 0;
  for (int i = 0; i < count; ++i) {
    if (asks == Asks::kFirst && !WaitUntil([&] { return tier.Wants(); })) return taken;
    const StoredBlock one = Stored(Key(1, 0, ++*block), 0, 30000);
    taken += PutAll(tier, {one})[0].ok();
    const auto answer = GetAll(tier, {one.key})[0];
    if (answer.ok()) {
      EXPECT_EQ(**answer, *one.bytes);
    }
  }
  return taken;
}

// A file system of 24 MiB under a tier that may take 64: it stays below, keeps on taking blocks, and shares the disk
// with others.
TEST(FullDiskTest, TheTierLivesWithTheRoomThereIs) {
  const Folder folder;
  const SmallDisk disk(folder.path(), "size=24m");
  if (!disk.mounted) GTEST_SKIP() << kNoMount;
  const TierOptions options{.rocksdb_dir = folder.path() + "/kv", .rocksdb_bytes = 64 << 20};
  auto tier = *MakeRocksdbTier(options);
  uint64_t block = 0;
  EXPECT_GT(PutAndRead(*tier, 3000, &block), 2000);  // 90 MB
  EXPECT_GT(std::filesystem::space(folder.path()).available, 1u << 20);
  // Somebody else fills the disk, and takes what the tier gives back, too.
  const std::string filler = folder.path() + "/filler";
  for (int i = 0; i < 200; ++i) {
    std::ofstream file(filler, std::ios::app);
    const std::string chunk(64 << 10, 'x');
    while (file.write(chunk.data(), static_cast<std::streamsize>(chunk.size())).flush()) {
    }
    PutAndRead(*tier, 2, &block, Asks::kNo);
  }
  EXPECT_FALSE(tier->Wants());
  std::filesystem::remove(filler);
  ASSERT_TRUE(WaitUntil([&] { return tier->Wants(); }));
  EXPECT_GT(PutAndRead(*tier, 500, &block), 300);
  tier.reset();
  ASSERT_OK(MakeRocksdbTier(options));
}

// A disk that has less than the tier leaves free for its own work: nothing fails, and nothing is taken. It says so,
// once, and once that it is over.
TEST(FullDiskTest, ATierThatHasNoRoomSaysSo) {
  const Folder folder;
  const SmallDisk disk(folder.path(), "size=24m");
  if (!disk.mounted) GTEST_SKIP() << kNoMount;
  LogLines said("disk");
  auto tier = *MakeRocksdbTier({.rocksdb_dir = folder.path() + "/kv", .rocksdb_bytes = 256 << 20});
  EXPECT_THAT(PutAll(*tier, {Stored(Key(1, 0, 0), 0, 30000)})[0], StatusIs(absl::StatusCode::kResourceExhausted, _));
  EXPECT_FALSE(tier->Wants());
  ASSERT_TRUE(WaitUntil([&] { return said.lines().size() == 1; }));
  EXPECT_THAT(said.lines()[0], testing::HasSubstr("takes no blocks: its disk has no room"));
  ASSERT_EQ(mount("tmpfs", folder.path().c_str(), "tmpfs", MS_REMOUNT, "size=200m"), 0);
  ASSERT_TRUE(WaitUntil([&] { return tier->Wants() && said.lines().size() == 2; }));
  EXPECT_THAT(said.lines()[1], testing::HasSubstr("has room on its disk again"));
  ASSERT_OK(PutAll(*tier, {Stored(Key(1, 0, 0), 0, 30000)})[0]);
}

}  // namespace
}  // namespace interlace
