// The codec and the stack of tiers: bytes_per_second counts payload.
#include <benchmark/benchmark.h>

#include <utility>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "common/check.h"
#include "common/clock.h"
#include "common/fault.h"
#include "kvstore/block_codec.h"
#include "kvstore/tier/tiers.h"
#include "kvstore/tier_stack.h"

namespace interlace {
namespace {

constexpr int64_t kPayload = 24 << 10;  // one block of 16 tokens, 3 KV heads of 64, F32
constexpr int kBlocks = 2048;           // 48 MiB: beyond the caches

constexpr HeadRange kHeads{0, 8};

BlockKey KeyOf(int block) { return BlockKey{{1, static_cast<uint64_t>(block)}, LayerId{block % 30}, kHeads}; }
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

// Blocks through a TierStack over memory: offered all at once, then fetched into frames and verified there.
void BM_StackRoundTrip(benchmark::State& state) {
  const std::vector<std::byte> arena = Arena();
  RealClock clock;
  FaultPoints faults;
  std::vector<SharedBytes> stored;
  for (int b = 0; b < kBlocks; ++b) {
    stored.push_back(EncodeBlock(KeyOf(b), absl::MakeConstSpan(arena).subspan(b * kPayload, kPayload)));
  }
  std::vector<std::byte> frames(kBlocks * (kPayload + kBlockHeaderBytes));
  for (auto _ : state) {
    std::vector<std::unique_ptr<KvTier>> tiers;
    tiers.push_back(*MakeMemoryTier(int64_t{1} << 30));
    TierStack stack({.payload_bytes = kPayload, .layer_end = 30, .heads = kHeads}, std::move(tiers), clock, faults);
    for (int b = 0; b < kBlocks; ++b) stack.Offer(KeyOf(b), b, stored[b]);
    absl::BlockingCounter left(kBlocks);
    for (int b = 0; b < kBlocks; ++b) {
      stack.Fetch(KeyOf(b),
                  absl::MakeSpan(frames).subspan(b * (kPayload + kBlockHeaderBytes), kPayload + kBlockHeaderBytes),
                  absl::InfiniteFuture(), [&left](absl::Status status) {
                    CHECK(status.ok());
                    left.DecrementCount();
                  });
    }
    left.Wait();
  }
  state.SetBytesProcessed(state.iterations() * kPayload * kBlocks);
}
BENCHMARK(BM_StackRoundTrip)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace interlace

BENCHMARK_MAIN();
