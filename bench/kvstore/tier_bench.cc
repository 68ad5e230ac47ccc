// Tiers alone, with blocks of 24 KiB in calls of 1 MiB, four at once: bytes_per_second counts stored forms; of probes,
// items_per_second counts keys. "slab" is the least that a disk tier could cost: frames of a fixed size in one file.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/check.h"
#include "common/clock.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/tiers.h"
#include "tests/transport/child_process.h"
#include "transport/ucx_transport.h"

namespace interlace {
namespace {

constexpr size_t kPayload = 24 << 10;
constexpr int kInCall = 42, kCalls = 300, kAtOnce = 4;  // 310 MB an iteration
constexpr int64_t kBytes = int64_t{kInCall} * kCalls * (kPayload + kBlockHeaderBytes);
constexpr int64_t kCapacity = int64_t{2} << 30;

enum Which { kMemory, kRocksdb, kRemote };

std::string Scratch(absl::string_view name) {
  return absl::StrCat(std::filesystem::temp_directory_path().string(), "/kvstore_bench_", getpid(), "_", name);
}

// A tier with what it needs; of "remote", a store in another process.
struct Subject {
  RealClock clock;
  std::unique_ptr<ChildProcess> store;
  std::unique_ptr<Transport> transport;
  std::unique_ptr<KvTier> tier;

  explicit Subject(int64_t which) {
    absl::StatusOr<std::unique_ptr<KvTier>> made = absl::UnknownError("");
    if (which == kMemory) made = MakeMemoryTier(kCapacity);
    if (which == kRocksdb) made = MakeRocksdbTier({.rocksdb_dir = Scratch("rocksdb"), .rocksdb_bytes = kCapacity});
    if (which == kRemote) {
      const std::string ready = Scratch("ready");
      store = std::make_unique<ChildProcess>(
          STORE_BINARY,
          std::vector<std::string>{"--set", "kvstore.listen=127.0.0.1:0", "--set", "kvstore.host_bytes=2GiB", "--set",
                                   "log.level=error", "--ready-file", ready});
      std::string address;
      while (address.empty()) {
        std::ifstream file(ready);
        std::getline(file, address);
        std::this_thread::yield();
      }
      std::filesystem::remove(ready);
      transport = *MakeUcxTransport({});
      made = MakeRemoteTier({.remote = address.substr(8), .transport = transport.get(), .clock = &clock});
    }
    CHECK_MSG(made.ok(), made.status().ToString().c_str());
    tier = *std::move(made);
  }
  ~Subject() {
    tier.reset();
    std::filesystem::remove_all(Scratch("rocksdb"));
  }
};

std::vector<BlockKey> KeysOf(uint64_t pass, int call) {
  std::vector<BlockKey> keys;
  for (int b = 0; b < kInCall; ++b)
    keys.push_back({{pass, static_cast<uint64_t>(call * kInCall + b)}, LayerId{b % 30}, {0, 8}});
  return keys;
}

// Starts kCalls calls, kAtOnce of them under way; `start(call, done)`.
template <typename Start>
void RunCalls(Start start) {
  std::deque<absl::Notification> done(kCalls);
  for (int call = 0; call < kCalls; ++call) {
    if (call >= kAtOnce) done[call - kAtOnce].WaitForNotification();
    start(call, [&done, call] { done[call].Notify(); });
  }
  for (int call = kCalls - kAtOnce; call < kCalls; ++call) done[call].WaitForNotification();
}

// Encoded beforehand: the same bytes under every key, since a tier does not look at them.
SharedBytes SomeBytes() { return EncodeBlock({}, std::vector<std::byte>(kPayload, std::byte{7})); }

int64_t PutPass(KvTier& tier, uint64_t pass, const SharedBytes& bytes) {
  std::atomic<int64_t> refused{0};
  RunCalls([&](int call, auto done) {
    std::vector<StoredBlock> blocks;
    for (const BlockKey& key : KeysOf(pass, call)) blocks.push_back({key, 0, bytes});
    tier.Put(std::move(blocks), [&refused, done](auto statuses) {
      for (const absl::Status& status : statuses) refused += !status.ok();
      done();
    });
  });
  return refused;
}

void BM_Put(benchmark::State& state) {
  Subject subject(state.range(0));
  const SharedBytes bytes = SomeBytes();
  uint64_t pass = 0;
  int64_t refused = 0;
  for (auto _ : state) refused += PutPass(*subject.tier, ++pass, bytes);
  state.SetBytesProcessed(state.iterations() * kBytes);
  state.counters["refused_pct"] =
      100.0 * static_cast<double>(refused) / static_cast<double>(state.iterations() * kInCall * kCalls);
}
BENCHMARK(BM_Put)
    ->ArgName("tier")
    ->DenseRange(kMemory, kRemote)
    ->Iterations(12)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void BM_Get(benchmark::State& state) {
  Subject subject(state.range(0));
  PutPass(*subject.tier, 1, SomeBytes());
  for (auto _ : state) {
    RunCalls([&](int call, auto done) {
      subject.tier->Get(KeysOf(1, call), [done](auto answers) {
        for (const auto& answer : answers) CHECK_MSG(answer.ok(), answer.status().ToString().c_str());
        done();
      });
    });
  }
  state.SetBytesProcessed(state.iterations() * kBytes);
}
BENCHMARK(BM_Get)
    ->ArgName("tier")
    ->DenseRange(kMemory, kRemote)
    ->Iterations(8)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void BM_Probe(benchmark::State& state) {
  Subject subject(state.range(0));
  PutPass(*subject.tier, 1, SomeBytes());
  for (auto _ : state) {
    RunCalls([&](int call, auto done) {
      subject.tier->Probe(KeysOf(1, call), [done](auto held) {
        for (const bool one : held) CHECK(one);
        done();
      });
    });
  }
  state.SetItemsProcessed(state.iterations() * kInCall * kCalls);
}
BENCHMARK(BM_Probe)
    ->ArgName("tier")
    ->DenseRange(kMemory, kRemote)
    ->Iterations(20)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

// One lone block: what a fetch adds to a plan at least.
void BM_GetOne(benchmark::State& state) {
  Subject subject(state.range(0));
  PutPass(*subject.tier, 1, SomeBytes());
  int call = 0;
  for (auto _ : state) {
    absl::Notification done;
    subject.tier->Get({KeysOf(1, call)[0]}, [&](auto answers) {
      CHECK(answers[0].ok());
      done.Notify();
    });
    done.WaitForNotification();
    call = (call + 1) % kCalls;
  }
}
BENCHMARK(BM_GetOne)->ArgName("tier")->DenseRange(kMemory, kRemote)->UseRealTime()->Unit(benchmark::kMicrosecond);

// Frames of 4096-byte multiples in one file, written over and over; reads into a new string each, as a tier answers.
void BM_Slab(benchmark::State& state) {
  constexpr size_t kFrame = (kPayload + kBlockHeaderBytes + 4095) / 4096 * 4096;
  const std::string path = Scratch("slab");
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(file >= 0);
  const SharedBytes bytes = SomeBytes();
  const int64_t frames = state.range(0) == 0 ? kCapacity / static_cast<int64_t>(kFrame) : int64_t{kInCall} * kCalls;
  int64_t next = 0;
  const auto at = [&] { return static_cast<off_t>(next++ % frames * static_cast<int64_t>(kFrame)); };
  if (state.range(0) == 1) {
    for (int i = 0; i < kInCall * kCalls; ++i) CHECK(pwrite(file, bytes->data(), bytes->size(), at()) > 0);
  }
  for (auto _ : state) {
    for (int i = 0; i < kInCall * kCalls; ++i) {
      if (state.range(0) == 0) {
        CHECK(pwrite(file, bytes->data(), bytes->size(), at()) > 0);
      } else {
        auto out = std::make_shared<std::string>(bytes->size(), '\0');
        CHECK(pread(file, out->data(), out->size(), at()) > 0);
        benchmark::DoNotOptimize(out);
      }
    }
  }
  state.SetBytesProcessed(state.iterations() * kBytes);
  close(file);
  std::filesystem::remove(path);
}
BENCHMARK(BM_Slab)->ArgName("get")->Arg(0)->Iterations(12)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(BM_Slab)->ArgName("get")->Arg(1)->Iterations(8)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace interlace

int main(int argc, char** argv) {
  interlace::KeepFreedMemory();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
