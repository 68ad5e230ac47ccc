#include <immintrin.h>

#include "kernels/cpu/ceilings.h"

namespace interlace {
namespace {

constexpr int kChains = 12;

float Fma(int64_t rounds) {
  __m256 chains[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) chains[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f);
  const __m256 b = _mm256_set1_ps(0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chains[i] = _mm256_fmadd_ps(chains[i], a, b);
  }
  __m256 sum = chains[0];
#pragma GCC unroll 12
  for (int i = 1; i < kChains; ++i) sum = _mm256_add_ps(sum, chains[i]);
  return _mm256_cvtss_f32(sum);
}

// maddubs, madd, add: what int8 products cost where there is no VNNI.
int32_t Dot(int64_t rounds) {
  __m256i chains[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) chains[i] = _mm256_set1_epi32(i);
  __m256i a = _mm256_set1_epi8(3);
  const __m256i b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      __m256i x = a;
      asm volatile("" : "+x"(x));  // or the product would be computed once
      chains[i] = _mm256_add_epi32(chains[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, b), ones));
    }
  }
  __m256i sum = chains[0];
#pragma GCC unroll 12
  for (int i = 1; i < kChains; ++i) sum = _mm256_add_epi32(sum, chains[i]);
  return _mm256_extract_epi32(sum, 0);
}

uint64_t Read(const std::byte* data, int64_t bytes) {
  const int64_t part = bytes / kReadStreams;
  __m256i sums[kReadStreams];
#pragma GCC unroll 8
  for (int s = 0; s < kReadStreams; ++s) sums[s] = _mm256_setzero_si256();
  for (int64_t i = 0; i < part; i += 64) {
#pragma GCC unroll 8
    for (int s = 0; s < kReadStreams; ++s) {
      const auto* at = reinterpret_cast<const __m256i*>(data + s * part + i);
      sums[s] = _mm256_add_epi64(sums[s], _mm256_add_epi64(_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)));
    }
  }
  __m256i sum = sums[0];
#pragma GCC unroll 8
  for (int s = 1; s < kReadStreams; ++s) sum = _mm256_add_epi64(sum, sums[s]);
  return static_cast<uint64_t>(_mm256_extract_epi64(sum, 0));
}

}  // namespace

const CeilingLoops kAvx2CeilingLoops = {"avx2", &Fma, kChains * 8 * 2, &Dot, kChains * 32 * 2, &Read};

}  // namespace interlace
