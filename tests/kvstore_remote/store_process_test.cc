// The remote tier against interlace-kvstore in a process of its own, which dies and comes back.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/time/clock.h"
#include "common/transport.h"
#include "kvstore/tier/tiers.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/tier_conformance.h"
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
  explicit StoreProcess(const std::string& listen = "127.0.0.1:0") {
    std::filesystem::remove(ready);
    child = std::make_unique<ChildProcess>(
        STORE_BINARY,
        std::vector<std::string>{"--set", "kvstore.listen=" + listen, "--set", "kvstore.host_bytes=512MiB", "--set",
                                 "log.level=error", "--ready-file", ready});
    const absl::Time deadline = absl::Now() + kPatience;
    while (address.empty() && absl::Now() < deadline) {
      std::string line;
      std::ifstream file(ready);
      if (std::getline(file, line) && line.rfind("address=", 0) == 0) address = line.substr(8);
      std::this_thread::yield();
    }
    EXPECT_FALSE(address.empty());
    std::filesystem::remove(ready);
  }
};

std::vector<StoredBlock> SomeBlocks(uint64_t generation, uint64_t count, size_t bytes) {
  std::vector<StoredBlock> blocks;
  for (uint64_t b = 0; b < count; ++b) blocks.push_back({Key(generation, 0, b), Shared(Pattern(bytes, b))});
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
  const std::unique_ptr<Transport> transport = *MakeUcxTransport({});
  absl::StatusOr<std::unique_ptr<KvTier>> made = MakeRemoteTier({.remote = address, .transport = transport.get()});
  ASSERT_OK(made);
  KvTier& tier = **made;
  const std::vector<StoredBlock> blocks = SomeBlocks(1, 100, 64 << 10);
  std::vector<BlockKey> keys;
  for (const StoredBlock& block : blocks) keys.push_back(block.key);
  for (const absl::Status& status : WriteAll(tier, blocks)) ASSERT_OK(status);

  Collected<bool> answered;  // whether every block was either served or Unavailable
  constexpr size_t kCalls = 60;
  for (size_t i = 0; i < kCalls; ++i) {
    if (i % 2) {
      tier.Read(keys, [&](std::vector<absl::StatusOr<SharedBytes>> answers) {
        bool good = answers.size() == keys.size();
        for (const auto& answer : answers) good &= answer.ok() || absl::IsUnavailable(answer.status());
        answered.Add(good);
      });
    } else {
      tier.Write(blocks, [&](std::vector<absl::Status> statuses) {
        bool good = statuses.size() == blocks.size();
        for (const absl::Status& status : statuses) good &= status.ok() || absl::IsUnavailable(status);
        answered.Add(good);
      });
    }
    if (i == kCalls / 2) store->child->Signal(SIGKILL);
  }
  ASSERT_TRUE(answered.WaitFor(kCalls));
  EXPECT_EQ(answered.size(), kCalls);
  for (bool good : answered.Take()) EXPECT_TRUE(good);
  EXPECT_THAT(ReadAll(tier, {keys[0]})[0], StatusIs(absl::StatusCode::kUnavailable, _));
  store->child->Wait();

  StoreProcess again(address);
  const absl::Time deadline = absl::Now() + kPatience;
  absl::Status status = absl::UnavailableError("not tried");
  while (!status.ok() && absl::Now() < deadline) {
    status = WriteAll(tier, {blocks[0]})[0];
    std::this_thread::yield();
  }
  EXPECT_OK(status);
  EXPECT_OK(ReadAll(tier, {keys[0]})[0]);
  EXPECT_THAT(ReadAll(tier, {keys[1]})[0], StatusIs(absl::StatusCode::kNotFound, _)) << "the new store is empty";
}

// A store that hangs is noticed by the pings on its lease.
TEST(StoreProcess, AStoppedStoreIsUnavailable) {
  StoreProcess store;
  const std::unique_ptr<Transport> transport = *MakeUcxTransport({});
  absl::StatusOr<std::unique_ptr<KvTier>> made =
      MakeRemoteTier({.remote = store.address, .transport = transport.get()});
  ASSERT_OK(made);
  store.child->Stop();
  const absl::Status status = WriteAll(**made, SomeBlocks(1, 1, 1000))[0];
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, _));
  store.child->Signal(SIGCONT);
}

}  // namespace
}  // namespace interlace
