// Sixteen-lane building blocks of the AVX-512 variants. Only *_avx512*.cc files include this; everything has internal
// linkage, so that no code compiled for AVX-512 is ever shared with files that must run without it.
#pragma once

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || !defined(__AVX512DQ__)
#error "simd_avx512.h is for files compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq"
#endif

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/stored.h"

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

// What a kernel written once for any width needs (paged_attention/attention_kernel.h). Loads turn what is stored into
// F32, exactly.
struct Simd {
  using F = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kWide = 4;  // vectors that fit beside six rows of accumulators

  [[gnu::always_inline]] static F Zero() { return _mm512_setzero_ps(); }
  [[gnu::always_inline]] static F Set1(float x) { return _mm512_set1_ps(x); }
  [[gnu::always_inline]] static F Load(const float* p) { return _mm512_loadu_ps(p); }
  [[gnu::always_inline]] static F Load(const F16Bits* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static F Load(const BF16Bits* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  [[gnu::always_inline]] static F Load(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  // Eight elements.
  [[gnu::always_inline]] static void Unpack8(const float* p, float* to) { _mm256_storeu_ps(to, _mm256_loadu_ps(p)); }
  [[gnu::always_inline]] static void Unpack8(const F16Bits* p, float* to) {
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  [[gnu::always_inline]] static void Unpack8(const BF16Bits* p, float* to) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    _mm256_storeu_ps(to, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
  }
  [[gnu::always_inline]] static void Unpack8(const int8_t* p, float* to) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    _mm256_storeu_ps(to, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
  }
  [[gnu::always_inline]] static F LoadFirst(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(FirstLanes(count), p);
  }
  [[gnu::always_inline]] static void Store(float* p, F v) { _mm512_storeu_ps(p, v); }
  [[gnu::always_inline]] static void StoreFirst(float* p, F v, int64_t count) {
    _mm512_mask_storeu_ps(p, FirstLanes(count), v);
  }
  [[gnu::always_inline]] static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  [[gnu::always_inline]] static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  [[gnu::always_inline]] static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  [[gnu::always_inline]] static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  [[gnu::always_inline]] static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // b where either is NaN.
  [[gnu::always_inline]] static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  [[gnu::always_inline]] static F Abs(F a) { return _mm512_abs_ps(a); }
  // a where x < limit, else b; b where x is NaN.
  [[gnu::always_inline]] static F Below(F x, F limit, F a, F b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), b, a);
  }
  [[gnu::always_inline]] static F WithSignOf(F magnitude, F sign) {
    const __m512 bit = _mm512_set1_ps(-0.0f);
    return _mm512_or_ps(_mm512_andnot_ps(bit, magnitude), _mm512_and_ps(bit, sign));
  }
  // Lanes [begin, end) of a, the others of b.
  [[gnu::always_inline]] static F Within(F a, F b, int64_t begin, int64_t end) {
    const __mmask16 lanes = FirstLanes(end) & static_cast<__mmask16>(~FirstLanes(begin));
    return _mm512_mask_blend_ps(lanes, b, a);
  }
  [[gnu::always_inline]] static F ExpOf(F x) { return Exp(x); }
  [[gnu::always_inline]] static float Sum(F v) { return SumLanes(v); }
  [[gnu::always_inline]] static float Largest(F v) { return MaxLanes(v); }
};

}  // namespace
}  // namespace interlace::avx512
