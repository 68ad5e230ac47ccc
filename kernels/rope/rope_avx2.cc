#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx2 {
namespace {

constexpr int64_t kElementsPerTask = 1 << 13;  // fewer are not worth a barrier

struct SinCos {
  __m256 sine;
  __m256 cosine;
};

// Absolute error about 1e-7 for |x| < 2^17. Polynomials: Cephes' sinf and cosf (Moshier); the reduction by pi/2 in
// three parts is exact in its first step, thanks to the fused multiply-add.
[[gnu::always_inline]] inline SinCos SinCosOf(__m256 x) {
  const __m256 turns = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.636619772367581343f)),
                                       _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(turns, _mm256_set1_ps(0x1.921fb6p+0f), x);
  r = _mm256_fnmadd_ps(turns, _mm256_set1_ps(-0x1.777a5cp-25f), r);
  r = _mm256_fnmadd_ps(turns, _mm256_set1_ps(-0x1.ee59dap-50f), r);
  const __m256 z = _mm256_mul_ps(r, r);

  __m256 s = _mm256_set1_ps(-1.9515295891e-4f);
  s = _mm256_fmadd_ps(s, z, _mm256_set1_ps(8.3321608736e-3f));
  s = _mm256_fmadd_ps(s, z, _mm256_set1_ps(-1.6666654611e-1f));
  s = _mm256_fmadd_ps(_mm256_mul_ps(s, z), r, r);
  __m256 c = _mm256_set1_ps(2.443315711809948e-5f);
  c = _mm256_fmadd_ps(c, z, _mm256_set1_ps(-1.388731625493765e-3f));
  c = _mm256_fmadd_ps(c, z, _mm256_set1_ps(4.166664568298827e-2f));
  c = _mm256_fmadd_ps(c, _mm256_mul_ps(z, z), _mm256_fmadd_ps(z, _mm256_set1_ps(-0.5f), _mm256_set1_ps(1)));

  // Odd quarter turns swap the two; bit 1 of the turn, or of the next, is the sign.
  const __m256i quarter = _mm256_cvtps_epi32(turns);
  const __m256 swap = _mm256_castsi256_ps(_mm256_slli_epi32(quarter, 31));
  const __m256i bit1 = _mm256_set1_epi32(2);
  const __m256i sine_sign = _mm256_slli_epi32(_mm256_and_si256(quarter, bit1), 30);
  const __m256i next = _mm256_add_epi32(quarter, _mm256_set1_epi32(1));
  const __m256i cosine_sign = _mm256_slli_epi32(_mm256_and_si256(next, bit1), 30);
  return {_mm256_xor_ps(_mm256_blendv_ps(s, c, swap), _mm256_castsi256_ps(sine_sign)),
          _mm256_xor_ps(_mm256_blendv_ps(c, s, swap), _mm256_castsi256_ps(cosine_sign))};
}

// Each lane twice: lanes 0-3 in out[0], 4-7 in out[1].
[[gnu::always_inline]] inline void Double(__m256 v, __m256 out[2]) {
  const __m256 low = _mm256_unpacklo_ps(v, v);
  const __m256 high = _mm256_unpackhi_ps(v, v);
  out[0] = _mm256_permute2f128_ps(low, high, 0x20);
  out[1] = _mm256_permute2f128_ps(low, high, 0x31);
}

// The first `count` lanes. Masked accesses cost several times plain ones.
[[gnu::always_inline]] inline __m256 LoadSome(const float* at, int64_t count) {
  return count >= kLanes ? _mm256_loadu_ps(at) : _mm256_maskload_ps(at, FirstLanes(count));
}
[[gnu::always_inline]] inline void StoreSome(float* at, __m256 v, int64_t count) {
  if (count >= kLanes)
    _mm256_storeu_ps(at, v);
  else
    _mm256_maskstore_ps(at, FirstLanes(count), v);
}

// Even lanes: x*c - y*s; odd lanes: y*c + x*s.
[[gnu::always_inline]] inline __m256 Rotate(__m256 v, __m256 cosine, __m256 sine) {
  return _mm256_fmaddsub_ps(v, cosine, _mm256_mul_ps(_mm256_permute_ps(v, 0xB1), sine));
}

// Sixteen elements, so eight pairs, of all heads at a time.
void RotateAdjacent(float* row, int64_t heads, int32_t head_dim, int32_t position, absl::Span<const float> frequencies,
                    float magnitude) {
  const __m256 factor = _mm256_set1_ps(magnitude);
  const __m256 positions = _mm256_set1_ps(static_cast<float>(position));
  const auto rotated = static_cast<int32_t>(2 * frequencies.size());
  for (int32_t d = 0; d < rotated; d += 2 * kLanes) {
    const int32_t left = rotated - d;  // even
    const __m256 frequency = LoadSome(frequencies.data() + d / 2, left / 2);
    const SinCos angles = SinCosOf(_mm256_mul_ps(positions, frequency));
    __m256 sine[2];
    __m256 cosine[2];
    Double(_mm256_mul_ps(angles.sine, factor), sine);
    Double(_mm256_mul_ps(angles.cosine, factor), cosine);
    for (int half = 0; half < 2; ++half) {
      const int64_t count = left - half * kLanes;
      if (count <= 0) break;
      for (int64_t h = 0; h < heads; ++h) {
        float* at = row + h * head_dim + d + half * kLanes;
        StoreSome(at, Rotate(LoadSome(at, count), cosine[half], sine[half]), count);
      }
    }
  }
}

// Eight pairs of all heads at a time.
void RotateHalves(float* row, int64_t heads, int32_t head_dim, int32_t position, absl::Span<const float> frequencies,
                  float magnitude) {
  const __m256 positions = _mm256_set1_ps(static_cast<float>(position));
  const __m256 factor = _mm256_set1_ps(magnitude);
  const auto pairs = static_cast<int32_t>(frequencies.size());
  for (int32_t i = 0; i < pairs; i += kLanes) {
    const int64_t count = pairs - i;
    const SinCos angles = SinCosOf(_mm256_mul_ps(positions, LoadSome(frequencies.data() + i, count)));
    const __m256 sine = _mm256_mul_ps(angles.sine, factor);
    const __m256 cosine = _mm256_mul_ps(angles.cosine, factor);
    for (int64_t h = 0; h < heads; ++h) {
      float* at = row + h * head_dim + i;
      const __m256 a = LoadSome(at, count);
      const __m256 b = LoadSome(at + pairs, count);
      StoreSome(at, _mm256_fmsub_ps(a, cosine, _mm256_mul_ps(b, sine)), count);
      StoreSome(at + pairs, _mm256_fmadd_ps(b, cosine, _mm256_mul_ps(a, sine)), count);
    }
  }
}

}  // namespace

void Rope(const RopeArgs& args, OpContext on) {
  const int32_t head_dim = args.head_dim;
  const int64_t heads = args.x.cols / head_dim;
  const int32_t* positions = args.positions.data();
  const int64_t grain = args.x.cols < kElementsPerTask ? kElementsPerTask / args.x.cols : 1;
  on.team().ParallelFor(args.x.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const auto rotate = args.pairs == RopePairs::kAdjacent ? &RotateAdjacent : &RotateHalves;
      rotate(args.x.f32_row(t), heads, head_dim, positions[t], args.frequencies, args.magnitude);
    }
  });
}

}  // namespace interlace::avx2
