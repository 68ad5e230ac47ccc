// The remote tier against interlace-kvstore in a process of its own, which dies and comes back.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/transport.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/tiers.h"
#include "kvstore/tier_stack.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/folder.h"
#include "tests/kvstore/tier_calls.h"
#include "tests/status_matchers.h"
#include "tests/transport/child_process.h"
#include "tests/transport/waiting.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

using ::testing::_;

// interlace-kvstore, waited for until it is ready.
struct StoreProcess {
  std::string ready = testing::TempDir() + "/store_ready_" + std::to_string(getpid());
  std::unique_ptr<ChildProcess> child;
  std::string address;
  explicit StoreProcess(const std::string& listen = "127.0.0.1:0", const std::string& rocksdb_dir = "") {
    std::filesystem::remove(ready);
    child = std::make_unique<ChildProcess>(
        STORE_BINARY,
        std::vector<std::string>{"--set", "kvstore.listen=" + listen, "--set", "kvstore.host_bytes=512MiB", "--set",
                                 "kvstore.rocksdb_dir=" + rocksdb_dir, "--set", "kvstore.rocksdb_bytes=64MiB", "--set",
                                 "log.level=error", "--ready-file", ready});
    const absl::Time deadline = absl::Now() + kPatience;
    while (address.empty() && absl::Now() < deadline && child->Running()) {
      std::string line;
      std::ifstream file(ready);
      if (std::getline(file, line) && line.rfind("address=", 0) == 0) address = line.substr(8);
      std::this_thread::yield();
    }
    EXPECT_FALSE(address.empty());
    std::filesystem::remove(ready);
  }
};

std::vector<StoredBlock> SomeBlocks(uint64_t chain, uint64_t count, size_t bytes) {
  std::vector<StoredBlock> blocks;
  for (uint64_t b = 0; b < count; ++b) blocks.push_back(Stored(Key(chain, 0, b), static_cast<int32_t>(b), bytes));
  return blocks;
}

TEST(StoreProcess, StopsCleanlyOnSigterm) {
  StoreProcess store;
  store.child->Signal(SIGTERM);
  EXPECT_EQ(store.child->Wait(), 0);
}

TEST(StoreProcess, RefusesUnknownSettings) {
  ChildProcess child(STORE_BINARY, {"--set", "kvstore.nonsense=1"});
  EXPECT_EQ(WEXITSTATUS(child.Wait()), 1);
}

// Killed while batches are on their way: every call is answered once; a new process on the same address serves again.
TEST(StoreProcess, AKilledStoreFailsWhatIsOnItsWayAndIsFoundAgain) {
  auto store = std::make_unique<StoreProcess>();
  const std::string address = store->address;
  RealClock clock;
  const std::unique_ptr<Transport> transport = *MakeUcxTransport({});
  auto made = MakeRemoteTier({.remote = address, .transport = transport.get(), .clock = &clock});
  ASSERT_OK(made);
  KvTier& tier = **made;
  const std::vector<StoredBlock> blocks = SomeBlocks(1, 100, 64 << 10);
  const std::vector<BlockKey> keys = KeysOf(blocks);
  for (const absl::Status& status : PutAll(tier, blocks)) ASSERT_OK(status);

  Collected<bool> answered;  // whether every block was either served, refused or Unavailable
  constexpr size_t kCalls = 60;
  const auto good = [](const absl::Status& status) {
    return status.ok() || absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
  };
  for (size_t i = 0; i < kCalls; ++i) {
    if (i % 2) {
      tier.Get(keys, [&](std::vector<absl::StatusOr<SharedBytes>> answers) {
        bool all = answers.size() == keys.size();
        for (const auto& answer : answers) all &= good(answer.status());
        answered.Add(all);
      });
    } else {
      tier.Put(blocks, [&](std::vector<absl::Status> statuses) {
        bool all = statuses.size() == blocks.size();
        for (const absl::Status& status : statuses) all &= good(status);
        answered.Add(all);
      });
    }
    if (i == kCalls / 2) store->child->Signal(SIGKILL);
  }
  ASSERT_TRUE(answered.WaitFor(kCalls));
  EXPECT_EQ(answered.size(), kCalls);
  for (bool all : answered.Take()) EXPECT_TRUE(all);
  EXPECT_THAT(GetAll(tier, {keys[0]})[0], StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_FALSE(tier.Wants());
  store->child->Wait();

  StoreProcess again(address);
  const absl::Time deadline = absl::Now() + kPatience;
  while (!tier.Wants() && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_OK(PutAll(tier, {blocks[0]})[0]);
  EXPECT_OK(GetAll(tier, {keys[0]})[0]);
  EXPECT_THAT(GetAll(tier, {keys[1]})[0], StatusIs(absl::StatusCode::kNotFound, _)) << "the new store is empty";
}

// Killed and started again under load, over one folder: no fetch ever gives wrong bytes or waits beyond its deadline,
// and what RocksDB was given before a kill is found after it.
TEST(StoreProcess, KillsUnderLoadGiveNoWrongBlock) {
  const Folder folder;
  auto store = std::make_unique<StoreProcess>("127.0.0.1:0", folder.path());
  const std::string address = store->address;
  RealClock clock;
  FaultPoints faults;
  const std::unique_ptr<Transport> transport = *MakeUcxTransport({});
  std::vector<std::unique_ptr<KvTier>> tiers;
  tiers.push_back(*MakeRemoteTier({.remote = address, .transport = transport.get(), .clock = &clock}));
  KvTier& remote = *tiers[0];
  constexpr size_t kPayload = 24 << 10;
  TierStack stack({.payload_bytes = kPayload,
                   .layer_begin = 0,
                   .layer_end = 1,
                   .heads = {0, 4},
                   .retry_after = absl::Milliseconds(50)},
                  std::move(tiers), clock, faults);
  std::vector<std::byte> frame(kBlockHeaderBytes + kPayload);
  auto entropy = MakeSeededEntropy(5);
  int right = 0, lost = 0, found_after_kill = 0;
  for (int kill = 0; kill < 6; ++kill) {
    for (int i = 0; i < 300; ++i) {
      const BlockKey key = Key(1, 0, entropy->Next() % 400);
      if (stack.Wants()) stack.Offer(key, 0, Stored(key, 0, kPayload).bytes);
      if (i == 200) store->child->Signal(SIGKILL);
      absl::Notification done;
      absl::Status status;
      const BlockKey wanted = Key(1, 0, entropy->Next() % 400);
      stack.Fetch(wanted, absl::MakeSpan(frame), clock.Now() + absl::Seconds(20), [&](absl::Status answer) {
        status = std::move(answer);
        done.Notify();
      });
      done.WaitForNotification();
      if (!status.ok()) {
        ++lost;
        EXPECT_TRUE(absl::IsNotFound(status)) << status;
        continue;
      }
      ++right;
      found_after_kill += kill > 0 && i < 5;
      EXPECT_OK(VerifyStored(wanted, {reinterpret_cast<const char*>(frame.data()), frame.size()}, kPayload));
    }
    store->child->Wait();
    store = std::make_unique<StoreProcess>(address, folder.path());
    const absl::Time deadline = absl::Now() + kPatience;
    while (!remote.Wants() && absl::Now() < deadline) std::this_thread::yield();
  }
  EXPECT_EQ(stack.Stats().corrupt, 0);
  EXPECT_GT(right, 300);
  EXPECT_GT(lost, 100);
  EXPECT_GT(found_after_kill, 0);
}

// A store that hangs counts as away once an answer is overdue, and is used again when it goes on.
TEST(StoreProcess, AStoppedStoreIsUnavailableUntilItGoesOn) {
  StoreProcess store;
  RealClock clock;
  const std::unique_ptr<Transport> transport = *MakeUcxTransport({});
  auto made = MakeRemoteTier({.remote = store.address,
                              .transport = transport.get(),
                              .clock = &clock,
                              .answer_within = absl::Milliseconds(300)});
  ASSERT_OK(made);
  store.child->Stop();
  EXPECT_THAT(PutAll(**made, SomeBlocks(1, 1, 1000))[0], StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_FALSE((*made)->Wants());
  store.child->Signal(SIGCONT);
  const absl::Time deadline = absl::Now() + kPatience;
  while (!(*made)->Wants() && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_OK(PutAll(**made, SomeBlocks(1, 1, 1000))[0]);
}

}  // namespace
}  // namespace interlace
