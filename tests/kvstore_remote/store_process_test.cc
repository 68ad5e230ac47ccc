// The remote tier against interlace-kvstore in a process of its own, which dies and comes back.
#include <gtest/gtest.h>

#include <deque>
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
#include "tests/kvstore/kill_count.h"
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
                                 "kvstore.rocksdb_dir=" + rocksdb_dir, "--set", "kvstore.rocksdb_bytes=16MiB", "--set",
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
// the folder never has more than its bound, and what RocksDB had at one kill it has at every later one. RocksDB is
// given what its queue has room for: how much of what was older than that queue it had at the first kill is a figure
// only, since a disk may be slower than this test.
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
  constexpr size_t kPayload = 24 << 10, kWitness = 2000;
  constexpr int64_t kBound = 16 << 20, kQueue = 4 << 20;
  TierStack stack({.payload_bytes = kPayload,
                   .layer_begin = 0,
                   .layer_end = 1,
                   .heads = {0, 4},
                   .retry_after = absl::Milliseconds(50)},
                  std::move(tiers), clock, faults);
  std::vector<std::byte> frame(kBlockHeaderBytes + kPayload);
  // One block of its own each turn, whose put was answered OK, and how many bytes had been put by then.
  struct Witness {
    BlockKey key;
    int64_t put_bytes;
    bool durable = false;  // it outlived a kill
  };
  std::deque<Witness> witnesses;
  constexpr size_t kRemembered = 1000;
  int64_t put_bytes = 0, largest = 0, durable = 0, durable_lost = 0, old = 0, old_lost = 0;
  auto entropy = MakeSeededEntropy(5);
  int right = 0, lost = 0, found_after_kill = 0;
  const int kills = KillCount(6);
  for (int kill = 0; kill < kills; ++kill) {
    const int last = 200 + static_cast<int>(entropy->Next() % 200);  // turn of this store
    for (int i = 0; i < last + 50; ++i) {
      const BlockKey key = Key(1, 0, entropy->Next() % 150);
      if (stack.Wants()) {
        stack.Offer(key, 0, Stored(key, 0, kPayload).bytes);
        if (i < last) put_bytes += kPayload;
      }
      const StoredBlock witness = Stored(Key(2 + kill, 0, i), 0, kWitness);
      if (i < last && PutAll(remote, {witness})[0].ok()) witnesses.push_back({witness.key, put_bytes += kWitness});
      if (i == last) store->child->Signal(SIGKILL);
      if (i % 10 == 0) largest = std::max(largest, folder.Bytes());
      absl::Notification done;
      absl::Status status;
      const BlockKey wanted = Key(1, 0, entropy->Next() % 150);
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
    const absl::Time deadline = absl::Now() + 4 * kPatience;
    while (!remote.Wants() && absl::Now() < deadline) std::this_thread::yield();
    std::deque<Witness> survivors;
    for (size_t begin = 0; begin < witnesses.size(); begin += 100) {
      std::vector<BlockKey> keys;
      for (size_t w = begin; w < std::min(begin + 100, witnesses.size()); ++w) keys.push_back(witnesses[w].key);
      auto answers = GetAll(remote, keys);
      const auto away = [&] {
        return std::any_of(answers.begin(), answers.end(), [](const auto& answer) {
          return absl::IsUnavailable(answer.status());  // of a store that is slow, which says nothing of its blocks
        });
      };
      while (away() && absl::Now() < deadline) answers = GetAll(remote, keys);
      for (size_t k = 0; k < keys.size(); ++k) {
        Witness& witness = witnesses[begin + k];
        const bool held = answers[k].ok(), is_old = !witness.durable && witness.put_bytes <= put_bytes - kQueue;
        durable += witness.durable;
        durable_lost += witness.durable && !held;
        old += is_old;
        old_lost += is_old && !held;
        if (!held) continue;
        EXPECT_OK(VerifyStored(witness.key, **answers[k], kWitness));
        witness.durable = true;
        survivors.push_back(witness);
      }
    }
    witnesses = std::move(survivors);
    std::vector<BlockKey> forgotten;  // dropped, so that the store never has to give up others for room
    for (; witnesses.size() > kRemembered; witnesses.pop_front()) forgotten.push_back(witnesses.front().key);
    if (!forgotten.empty()) remote.Drop(forgotten);
    largest = std::max(largest, folder.Bytes());
    ASSERT_LE(largest, kBound);
  }
  EXPECT_EQ(stack.Stats().corrupt, 0);
  EXPECT_GT(right, 50 * kills);
  EXPECT_GT(lost, 15 * kills);
  EXPECT_GT(found_after_kill, 0);
  EXPECT_GT(durable, 20 * kills);
  EXPECT_EQ(durable_lost, 0);
  std::printf("figures: kills of a kvstore, reads right, not held, corrupt: %d, %d, %d, %ld\n", kills, right, lost,
              stack.Stats().corrupt);
  std::printf("figures: blocks that outlived a kill of the kvstore, looked for after later ones, lost: %ld, %ld\n",
              durable, durable_lost);
  std::printf("figures: blocks older than a full queue at the first kill, not yet in RocksDB: %ld, %ld\n", old,
              old_lost);
  std::printf("figures: largest folder of a kvstore bound to %ld bytes: %ld\n", kBound, largest);
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
