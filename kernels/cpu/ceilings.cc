#include "kernels/cpu/ceilings.h"

#include <cstring>

#include "kernels/op_table.h"

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

}  // namespace

std::vector<const CeilingLoops*> CeilingLoopsHere() {
  std::vector<const CeilingLoops*> all = {&kPlain};
  if (FindOpTable("avx2").ok()) all.push_back(&kAvx2CeilingLoops);
  if (FindOpTable("avx512").ok()) all.push_back(&kAvx512CeilingLoops);
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
