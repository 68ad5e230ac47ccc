#include "kernels/cpu/ceilings.h"

#include <cstring>

namespace interlace {
namespace {

constexpr int kChains = 8;

float PlainFma(int64_t rounds) {
  float chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = static_cast<float>(i);
  for (int64_t r = 0; r < rounds; ++r) {
    for (float& chain : chains) chain = chain * 0.999f + 0.001f;
  }
  float sum = 0;
  for (float chain : chains) sum += chain;
  return sum;
}

int32_t PlainDot(int64_t rounds) {
  int32_t chains[kChains] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) chains[i] += static_cast<int8_t>(r) * static_cast<int8_t>(i + 3);
  }
  int32_t sum = 0;
  for (int32_t chain : chains) sum += chain;
  return sum;
}

uint64_t PlainRead(const std::byte* data, int64_t bytes) {
  const int64_t part = bytes / kReadStreams;
  uint64_t sums[kReadStreams] = {};
  for (int64_t i = 0; i < part; i += int64_t{sizeof(uint64_t)}) {
    for (int s = 0; s < kReadStreams; ++s) {
      uint64_t word;
      std::memcpy(&word, data + s * part + i, sizeof word);
      sums[s] += word;
    }
  }
  uint64_t sum = 0;
  for (uint64_t s : sums) sum += s;
  return sum;
}

constexpr CeilingLoops kPlain = {"reference", &PlainFma, kChains * 2, &PlainDot, kChains * 2, &PlainRead};

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

}  // namespace

std::vector<const CeilingLoops*> CeilingLoopsHere() {
  __builtin_cpu_init();
  std::vector<const CeilingLoops*> all = {&kPlain};
  if (HasAvx2()) all.push_back(&kAvx2CeilingLoops);
  if (HasAvx512()) all.push_back(&kAvx512CeilingLoops);
  return all;
}

const CeilingLoops& CeilingLoopsOf(absl::string_view ops) {
  const std::vector<const CeilingLoops*> all = CeilingLoopsHere();
  for (const CeilingLoops* loops : all) {
    if (loops->name == ops) return *loops;
  }
  return *all.back();
}

}  // namespace interlace
