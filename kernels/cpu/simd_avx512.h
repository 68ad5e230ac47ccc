// Sixteen-lane building blocks of the AVX-512 variants. Only *_avx512.cc files include this; everything has internal
// linkage, so that no code compiled for AVX-512 is ever shared with files that must run without it.
#pragma once

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || !defined(__AVX512DQ__)
#error "simd_avx512.h is for files compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq"
#endif

#include <immintrin.h>

#include <cstdint>

namespace interlace::avx512 {
namespace {

[[maybe_unused]] constexpr int kLanes = 16;

// Lanes [0, count) are set; more than 16 count as 16.
[[maybe_unused, gnu::always_inline]] inline __mmask16 FirstLanes(int64_t count) {
  return count >= kLanes ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1u);
}

// Adds halves until one lane is left: ((0+8)+(4+12)) + ...
[[maybe_unused, gnu::always_inline]] inline float SumLanes(__m512 v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

[[maybe_unused, gnu::always_inline]] inline float MaxLanes(__m512 v) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// exp to about one unit in the last place; 0 and infinity beyond F32's range, exp(0) == 1, NaN stays NaN.
// The polynomial is Cephes' expf (Moshier).
[[maybe_unused, gnu::always_inline]] inline __m512 Exp(__m512 x) {
  // Beyond these the result is 0 or infinity all the same; in this order of arguments NaN passes.
  x = _mm512_max_ps(_mm512_set1_ps(-120), _mm512_min_ps(_mm512_set1_ps(120), x));
  const __m512 n =
      _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1));
  return _mm512_scalef_ps(p, n);
}

}  // namespace
}  // namespace interlace::avx512
