#include <immintrin.h>

#include "bench/kernels/ceilings.h"

namespace interlace {

float RunFmaChains(int64_t rounds) {
  __m256 chains[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) chains[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f);
  const __m256 b = _mm256_set1_ps(0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) chains[i] = _mm256_fmadd_ps(chains[i], a, b);
  }
  __m256 sum = chains[0];
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) sum = _mm256_add_ps(sum, chains[i]);
  return _mm256_cvtss_f32(sum);
}

float ReadAll(const void* data, int64_t bytes) {
  const auto* at = static_cast<const __m256i*>(data);
  __m256i sums[4] = {};
  for (int64_t i = 0; i < bytes / 32; i += 4) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[v] = _mm256_add_epi32(sums[v], _mm256_load_si256(at + i + v));
  }
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(sums[0], sums[1]), _mm256_add_epi32(sums[2], sums[3]));
  return static_cast<float>(_mm256_extract_epi32(sum, 0));
}

}  // namespace interlace
