#include <immintrin.h>

#include "kernels/cpu/ceilings.h"

namespace interlace {
namespace {

constexpr int kChains = 16;

float Fma(int64_t rounds) {
  __m512 chains[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) chains[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f);
  const __m512 b = _mm512_set1_ps(0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) chains[i] = _mm512_fmadd_ps(chains[i], a, b);
  }
  __m512 sum = chains[0];
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sum = _mm512_add_ps(sum, chains[i]);
  return _mm512_cvtss_f32(sum);
}

int32_t Dot(int64_t rounds) {
  __m512i chains[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) chains[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) chains[i] = _mm512_dpbusd_epi32(chains[i], a, b);
  }
  __m512i sum = chains[0];
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sum = _mm512_add_epi32(sum, chains[i]);
  return _mm_cvtsi128_si32(_mm512_castsi512_si128(sum));
}

uint64_t Read(const std::byte* data, int64_t bytes) {
  const int64_t part = bytes / kReadStreams;
  __m512i sums[kReadStreams];
#pragma GCC unroll 8
  for (int s = 0; s < kReadStreams; ++s) sums[s] = _mm512_setzero_si512();
  for (int64_t i = 0; i < part; i += 64) {
#pragma GCC unroll 8
    for (int s = 0; s < kReadStreams; ++s) {
      sums[s] = _mm512_add_epi64(sums[s], _mm512_loadu_si512(data + s * part + i));
    }
  }
  __m512i sum = sums[0];
#pragma GCC unroll 8
  for (int s = 1; s < kReadStreams; ++s) sum = _mm512_add_epi64(sum, sums[s]);
  return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(sum)));
}

}  // namespace

const CeilingLoops kAvx512CeilingLoops = {"avx512", &Fma, kChains * 16 * 2, &Dot, kChains * 64 * 2, &Read};

}  // namespace interlace
