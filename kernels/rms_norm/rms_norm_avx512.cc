#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx512 {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;  // fewer are not worth a barrier
constexpr int kChains = 4;

// Four accumulators, each lane of which takes every 64th element; the tail counts as zeros.
float SumOfSquares(const float* x, int64_t width) {
  __m512 sums[kChains];
#pragma GCC unroll 4
  for (int c = 0; c < kChains; ++c) sums[c] = _mm512_setzero_ps();
  int64_t i = 0;
  for (; i + kChains * kLanes <= width; i += kChains * kLanes) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      const __m512 a = _mm512_loadu_ps(x + i + c * kLanes);
      sums[c] = _mm512_fmadd_ps(a, a, sums[c]);
    }
  }
  for (; i < width; i += kLanes) {
    const __m512 a = _mm512_maskz_loadu_ps(FirstLanes(width - i), x + i);
    sums[0] = _mm512_fmadd_ps(a, a, sums[0]);
  }
  return SumLanes(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

void NormRow(const float* x, const float* weight, float epsilon, int64_t width, float* out) {
  const float mean = SumOfSquares(x, width) / static_cast<float>(width);
  const __m512 scale = _mm512_set1_ps(1 / __builtin_sqrtf(mean + epsilon));
  for (int64_t i = 0; i < width; i += kLanes) {
    const __mmask16 lanes = FirstLanes(width - i);
    const __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), scale);
    _mm512_mask_storeu_ps(out + i, lanes, _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(lanes, weight + i)));
  }
}

}  // namespace

void RmsNorm(const RmsNormArgs& args, OpContext on) {
  const int64_t width = args.x.cols;
  const int64_t grain = width < kElementsPerTask ? kElementsPerTask / width : 1;
  on.team().ParallelFor(args.x.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      NormRow(args.x.f32_row(t), args.weight.f32(), args.epsilon, width, args.out.f32_row(t));
    }
  });
}

}  // namespace interlace::avx512
