#include <immintrin.h>

#include "bench/kernels/ceilings.h"

namespace interlace {

float RunFmaChains512(int64_t rounds) {
  __m512 chains[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) chains[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f);
  const __m512 b = _mm512_set1_ps(0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) chains[i] = _mm512_fmadd_ps(chains[i], a, b);
  }
  __m512 sum = chains[0];
#pragma GCC unroll 12
  for (int i = 1; i < 12; ++i) sum = _mm512_add_ps(sum, chains[i]);
  return _mm512_cvtss_f32(sum);
}

}  // namespace interlace
