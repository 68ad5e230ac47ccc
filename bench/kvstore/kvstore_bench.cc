// Bytes per second of the KV path: bytes_per_second counts payload.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/fault.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/tiers.h"
#include "kvstore/transfer_engine.h"

namespace interlace {
namespace {

constexpr int64_t kPayload = 24 << 10;  // one block of 16 tokens, 3 KV heads of 64, F32
constexpr int kBlocks = 2048;           // 48 MiB: beyond the caches

BlockKey KeyOf(int block) { return BlockKey{{1, static_cast<uint64_t>(block)}, Generation{1}, LayerId{block % 30}}; }
std::vector<std::byte> Arena() {
  std::vector<std::byte> arena(kPayload * kBlocks);
  for (size_t i = 0; i < arena.size(); ++i) arena[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  return arena;
}

void BM_Encode(benchmark::State& state) {
  const std::vector<std::byte> arena = Arena();
  int block = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(EncodeBlock(KeyOf(block), absl::MakeConstSpan(arena).subspan(block * kPayload, kPayload)));
    block = (block + 1) % kBlocks;
  }
  state.SetBytesProcessed(state.iterations() * kPayload);
}
BENCHMARK(BM_Encode);

void BM_Decode(benchmark::State& state) {
  std::vector<std::byte> arena = Arena();
  std::vector<SharedBytes> stored;
  for (int b = 0; b < kBlocks; ++b) {
    stored.push_back(EncodeBlock(KeyOf(b), absl::MakeConstSpan(arena).subspan(b * kPayload, kPayload)));
  }
  int block = 0;
  for (auto _ : state) {
    const auto out = absl::MakeSpan(arena).subspan(block * kPayload, kPayload);
    CHECK(DecodeBlock(KeyOf(block), *stored[block], out).ok());
    block = (block + 1) % kBlocks;
  }
  state.SetBytesProcessed(state.iterations() * kPayload);
}
BENCHMARK(BM_Decode);

std::string Folder() {
  return absl::StrCat(std::filesystem::temp_directory_path().string(), "/kvstore_bench_", getpid());
}
std::unique_ptr<KvTier> TierOf(bool rocksdb) {
  auto tier = rocksdb ? MakeRocksdbTier({.rocksdb_dir = Folder(), .rocksdb_bytes = int64_t{1} << 30})
                      : MakeHostTier({.host_bytes = int64_t{1} << 30});
  CHECK_MSG(tier.ok(), tier.status().ToString().c_str());
  return *std::move(tier);
}

// All blocks out of the arena and back, through one engine. Arg: rocksdb instead of host.
void BM_EngineRoundTrip(benchmark::State& state) {
  std::vector<std::byte> arena = Arena();
  RealClock clock;
  FaultPoints faults;
  std::vector<std::unique_ptr<KvTier>> tiers;
  tiers.push_back(TierOf(state.range(0) != 0));
  TransferEngine engine({.payload_bytes = kPayload}, std::move(tiers), clock, faults);
  for (auto _ : state) {
    std::vector<KvWrite> writes;
    std::vector<KvRead> reads;
    for (int b = 0; b < kBlocks; ++b) {
      writes.push_back({KeyOf(b), arena.data() + b * kPayload});
      reads.push_back({KeyOf(b), arena.data() + b * kPayload});
    }
    for (const MoveResult& r : engine.Write(std::move(writes), absl::InfiniteFuture()).Wait(absl::InfiniteFuture())) {
      CHECK(r.status.ok());
    }
    for (const MoveResult& r : engine.Read(std::move(reads), absl::InfiniteFuture()).Wait(absl::InfiniteFuture())) {
      CHECK(r.status.ok());
    }
  }
  const TransferStats stats = engine.Stats();
  state.counters["out_MBps"] = static_cast<double>(stats.bytes_out) / absl::ToDoubleSeconds(stats.busy_out) / 1e6;
  state.counters["in_MBps"] = static_cast<double>(stats.bytes_in) / absl::ToDoubleSeconds(stats.busy_in) / 1e6;
  std::filesystem::remove_all(Folder());
}
BENCHMARK(BM_EngineRoundTrip)->ArgName("rocksdb")->Arg(0)->Arg(1)->UseRealTime();

// One block there and back: the time that a lone read adds.
void BM_EngineOneRead(benchmark::State& state) {
  std::vector<std::byte> arena = Arena();
  RealClock clock;
  FaultPoints faults;
  std::vector<std::unique_ptr<KvTier>> tiers;
  tiers.push_back(TierOf(state.range(0) != 0));
  TransferEngine engine({.payload_bytes = kPayload}, std::move(tiers), clock, faults);
  engine.Write({{KeyOf(0), arena.data()}}, absl::InfiniteFuture()).Wait(absl::InfiniteFuture());
  for (auto _ : state) {
    engine.Read({{KeyOf(0), arena.data()}}, absl::InfiniteFuture()).Wait(absl::InfiniteFuture());
  }
  std::filesystem::remove_all(Folder());
}
BENCHMARK(BM_EngineOneRead)->ArgName("rocksdb")->Arg(0)->Arg(1)->UseRealTime();

// The tier alone: 1 GiB of new blocks in calls of 1 MiB, four at once, dropped when full; then read back.
void BM_Rocksdb(benchmark::State& state) {
  const std::vector<std::byte> arena = Arena();
  const bool read = state.range(0) != 0;
  std::unique_ptr<KvTier> tier = TierOf(true);
  constexpr int kInCall = 42, kCalls = 600;
  const auto run = [&](uint64_t generation, bool reading) {
    std::vector<absl::Notification> done(kCalls);
    for (int call = 0; call < kCalls; ++call) {
      if (call >= 4) done[call - 4].WaitForNotification();
      std::vector<StoredBlock> blocks;
      std::vector<BlockKey> keys;
      for (int b = 0; b < kInCall; ++b) {
        BlockKey key = KeyOf(call * kInCall + b);
        key.generation = Generation{generation};
        keys.push_back(key);
        if (reading) continue;
        blocks.push_back({key, EncodeBlock(key, absl::MakeConstSpan(arena).subspan(b * kPayload, kPayload))});
      }
      if (reading) {
        tier->Read(std::move(keys), [&done, call](auto answers) {
          for (const auto& answer : answers) CHECK_MSG(answer.ok(), answer.status().ToString().c_str());
          done[call].Notify();
        });
      } else {
        tier->Write(std::move(blocks), [&done, call](auto statuses) {
          for (const auto& status : statuses) CHECK_MSG(status.ok(), status.ToString().c_str());
          done[call].Notify();
        });
      }
    }
    for (int call = kCalls - 4; call < kCalls; ++call) done[call].WaitForNotification();
  };
  if (read) run(1, false);
  uint64_t generation = 1;
  for (auto _ : state) {
    run(read ? 1 : ++generation, read);
    if (!read) tier->Drop(Generation{generation});
  }
  state.SetBytesProcessed(state.iterations() * kPayload * kInCall * kCalls);
  tier.reset();
  std::filesystem::remove_all(Folder());
}
BENCHMARK(BM_Rocksdb)->ArgName("get")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace interlace

BENCHMARK_MAIN();
