// Eight-lane building blocks of the AVX2 variants. Only *_avx2.cc files include this; everything has internal linkage,
// so that no code compiled for AVX2 is ever shared with files that must run without it.
#pragma once

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "simd_avx2.h is for files compiled with -mavx2 -mfma -mf16c"
#endif

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/stored.h"

namespace interlace::avx2 {
namespace {

[[maybe_unused]] constexpr int kLanes = 8;

// Lanes [0, count) are set; count in [0, 8].
[[maybe_unused, gnu::always_inline]] inline __m256i FirstLanes(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// ((0+1)+(2+3)) + ((4+5)+(6+7)), in lane order.
[[maybe_unused, gnu::always_inline]] inline float SumLanes(__m256 v) {
  const __m256 pairs = _mm256_hadd_ps(v, v);
  const __m256 quads = _mm256_hadd_ps(pairs, pairs);
  return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1)));
}

// SumLanes of four vectors at once, bit for bit.
[[maybe_unused, gnu::always_inline]] inline __m128 SumLanes4(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 quads = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1));
}

[[maybe_unused, gnu::always_inline]] inline float MaxLanes(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// exp to about one unit in the last place; 0 and infinity beyond F32's range, exp(0) == 1, NaN stays NaN.
// The polynomial is Cephes' expf (Moshier).
[[maybe_unused, gnu::always_inline]] inline __m256 Exp(__m256 x) {
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1));
  // 2^n in two factors, so that n = 128 and denormal results come out.
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  p = _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
  const __m256 low = _mm256_cmp_ps(x, _mm256_set1_ps(-103.98f), _CMP_LT_OQ);
  const __m256 high = _mm256_cmp_ps(x, _mm256_set1_ps(88.73f), _CMP_GT_OQ);
  p = _mm256_andnot_ps(low, p);
  return _mm256_blendv_ps(p, _mm256_set1_ps(__builtin_inff()), high);
}

// What a kernel written once for any width needs (paged_attention/attention_kernel.h). Loads turn what is stored into
// F32, exactly.
struct Simd {
  using F = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kWide = 2;  // vectors that fit beside six rows of accumulators

  [[gnu::always_inline]] static F Zero() { return _mm256_setzero_ps(); }
  [[gnu::always_inline]] static F Set1(float x) { return _mm256_set1_ps(x); }
  [[gnu::always_inline]] static F Load(const float* p) { return _mm256_loadu_ps(p); }
  [[gnu::always_inline]] static F Load(const F16Bits* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  [[gnu::always_inline]] static F Load(const BF16Bits* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  [[gnu::always_inline]] static F Load(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  template <class E>
  [[gnu::always_inline]] static void Unpack8(const E* p, float* to) {
    Store(to, Load(p));
  }
  [[gnu::always_inline]] static F LoadFirst(const float* p, int64_t count) {
    return _mm256_maskload_ps(p, FirstLanes(count));
  }
  [[gnu::always_inline]] static void Store(float* p, F v) { _mm256_storeu_ps(p, v); }
  [[gnu::always_inline]] static void StoreFirst(float* p, F v, int64_t count) {
    _mm256_maskstore_ps(p, FirstLanes(count), v);
  }
  [[gnu::always_inline]] static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  [[gnu::always_inline]] static F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  [[gnu::always_inline]] static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  [[gnu::always_inline]] static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  [[gnu::always_inline]] static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  // b where either is NaN.
  [[gnu::always_inline]] static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  [[gnu::always_inline]] static F Abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  // a where x < limit, else b; b where x is NaN.
  [[gnu::always_inline]] static F Below(F x, F limit, F a, F b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, limit, _CMP_LT_OQ));
  }
  [[gnu::always_inline]] static F WithSignOf(F magnitude, F sign) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
  }
  // Lanes [begin, end) of a, the others of b.
  [[gnu::always_inline]] static F Within(F a, F b, int64_t begin, int64_t end) {
    const __m256i lanes = _mm256_andnot_si256(FirstLanes(begin), FirstLanes(end));
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(lanes));
  }
  [[gnu::always_inline]] static F ExpOf(F x) { return Exp(x); }
  [[gnu::always_inline]] static float Sum(F v) { return SumLanes(v); }
  [[gnu::always_inline]] static float Largest(F v) { return MaxLanes(v); }
};

}  // namespace
}  // namespace interlace::avx2
