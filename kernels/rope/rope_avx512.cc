// As rope_avx2.cc, with sixteen lanes and masks for the ends of a head. Per pair the arithmetic is that of AVX2.
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx512 {
namespace {

constexpr int64_t kElementsPerTask = 1 << 13;  // fewer are not worth a barrier

struct SinCos {
  __m512 sine;
  __m512 cosine;
};

// Absolute error about 1e-7 for |x| < 2^17. Polynomials: Cephes' sinf and cosf (Moshier); the reduction by pi/2 in
// three parts is exact in its first step, thanks to the fused multiply-add.
[[gnu::always_inline]] inline SinCos SinCosOf(__m512 x) {
  const __m512 turns =
      _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.636619772367581343f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(turns, _mm512_set1_ps(0x1.921fb6p+0f), x);
  r = _mm512_fnmadd_ps(turns, _mm512_set1_ps(-0x1.777a5cp-25f), r);
  r = _mm512_fnmadd_ps(turns, _mm512_set1_ps(-0x1.ee59dap-50f), r);
  const __m512 z = _mm512_mul_ps(r, r);

  __m512 s = _mm512_set1_ps(-1.9515295891e-4f);
  s = _mm512_fmadd_ps(s, z, _mm512_set1_ps(8.3321608736e-3f));
  s = _mm512_fmadd_ps(s, z, _mm512_set1_ps(-1.6666654611e-1f));
  s = _mm512_fmadd_ps(_mm512_mul_ps(s, z), r, r);
  __m512 c = _mm512_set1_ps(2.443315711809948e-5f);
  c = _mm512_fmadd_ps(c, z, _mm512_set1_ps(-1.388731625493765e-3f));
  c = _mm512_fmadd_ps(c, z, _mm512_set1_ps(4.166664568298827e-2f));
  c = _mm512_fmadd_ps(c, _mm512_mul_ps(z, z), _mm512_fmadd_ps(z, _mm512_set1_ps(-0.5f), _mm512_set1_ps(1)));

  // Odd quarter turns swap the two; bit 1 of the turn, or of the next, is the sign.
  const __m512i quarter = _mm512_cvtps_epi32(turns);
  const __m512i one = _mm512_set1_epi32(1);
  const __m512i two = _mm512_set1_epi32(2);
  const __mmask16 swap = _mm512_test_epi32_mask(quarter, one);
  const __m512i sine_sign = _mm512_slli_epi32(_mm512_and_si512(quarter, two), 30);
  const __m512i cosine_sign = _mm512_slli_epi32(_mm512_and_si512(_mm512_add_epi32(quarter, one), two), 30);
  return {_mm512_xor_ps(_mm512_mask_blend_ps(swap, s, c), _mm512_castsi512_ps(sine_sign)),
          _mm512_xor_ps(_mm512_mask_blend_ps(swap, c, s), _mm512_castsi512_ps(cosine_sign))};
}

// Sixteen pairs of all heads at a time. In lanes 2i and 2i+1 of half h, the angle of pair 8h + i.
void RotateAdjacent(float* row, int64_t heads, int32_t head_dim, int32_t position, absl::Span<const float> frequencies,
                    float magnitude) {
  const __m512 factor = _mm512_set1_ps(magnitude);
  const __m512 positions = _mm512_set1_ps(static_cast<float>(position));
  const __m512i twice[2] = {_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                            _mm512_setr_epi32(8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15)};
  const auto rotated = static_cast<int32_t>(2 * frequencies.size());
  for (int32_t d = 0; d < rotated; d += 2 * kLanes) {
    const int32_t left = rotated - d;  // even
    const __m512 frequency = _mm512_maskz_loadu_ps(FirstLanes(left / 2), frequencies.data() + d / 2);
    const SinCos angles = SinCosOf(_mm512_mul_ps(positions, frequency));
    const __m512 sines = _mm512_mul_ps(angles.sine, factor);
    const __m512 cosines = _mm512_mul_ps(angles.cosine, factor);
    for (int half = 0; half < 2 && half * kLanes < left; ++half) {
      const __m512 sine = _mm512_permutexvar_ps(twice[half], sines);
      const __m512 cosine = _mm512_permutexvar_ps(twice[half], cosines);
      const __mmask16 mask = FirstLanes(left - half * kLanes);
      for (int64_t h = 0; h < heads; ++h) {
        float* at = row + h * head_dim + d + half * kLanes;
        const __m512 v = _mm512_maskz_loadu_ps(mask, at);
        const __m512 crossed = _mm512_mul_ps(_mm512_permute_ps(v, 0xB1), sine);
        _mm512_mask_storeu_ps(at, mask, _mm512_fmaddsub_ps(v, cosine, crossed));
      }
    }
  }
}

// Sixteen pairs of all heads at a time.
void RotateHalves(float* row, int64_t heads, int32_t head_dim, int32_t position, absl::Span<const float> frequencies,
                  float magnitude) {
  const __m512 positions = _mm512_set1_ps(static_cast<float>(position));
  const __m512 factor = _mm512_set1_ps(magnitude);
  const auto pairs = static_cast<int32_t>(frequencies.size());
  for (int32_t i = 0; i < pairs; i += kLanes) {
    const __mmask16 mask = FirstLanes(pairs - i);
    const SinCos angles = SinCosOf(_mm512_mul_ps(positions, _mm512_maskz_loadu_ps(mask, frequencies.data() + i)));
    const __m512 sine = _mm512_mul_ps(angles.sine, factor);
    const __m512 cosine = _mm512_mul_ps(angles.cosine, factor);
    for (int64_t h = 0; h < heads; ++h) {
      float* at = row + h * head_dim + i;
      const __m512 a = _mm512_maskz_loadu_ps(mask, at);
      const __m512 b = _mm512_maskz_loadu_ps(mask, at + pairs);
      _mm512_mask_storeu_ps(at, mask, _mm512_fmsub_ps(a, cosine, _mm512_mul_ps(b, sine)));
      _mm512_mask_storeu_ps(at + pairs, mask, _mm512_fmadd_ps(b, cosine, _mm512_mul_ps(a, sine)));
    }
  }
}

}  // namespace

void Rope(const RopeArgs& args, OpContext on) {
  const int32_t head_dim = args.head_dim;
  const int64_t heads = args.x.cols / head_dim;
  const int32_t* positions = args.positions.data();
  const auto rotate = args.pairs == RopePairs::kAdjacent ? &RotateAdjacent : &RotateHalves;
  const int64_t grain = args.x.cols < kElementsPerTask ? kElementsPerTask / args.x.cols : 1;
  on.team().ParallelFor(args.x.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      rotate(args.x.f32_row(t), heads, head_dim, positions[t], args.frequencies, args.magnitude);
    }
  });
}

}  // namespace interlace::avx512
