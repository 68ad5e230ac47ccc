#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx2 {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;  // fewer are not worth a barrier

// Two accumulators, each lane of which takes every sixteenth element; the tail counts as zeros.
float SumOfSquares(const float* x, int64_t width) {
  __m256 even = _mm256_setzero_ps();
  __m256 odd = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
    const __m256 a = _mm256_loadu_ps(x + i);
    const __m256 b = _mm256_loadu_ps(x + i + kLanes);
    even = _mm256_fmadd_ps(a, a, even);
    odd = _mm256_fmadd_ps(b, b, odd);
  }
  for (; i < width; i += kLanes) {
    const __m256 a = _mm256_maskload_ps(x + i, FirstLanes(width - i));
    even = _mm256_fmadd_ps(a, a, even);
  }
  return SumLanes(_mm256_add_ps(even, odd));
}

void NormRow(const float* x, const float* weight, float epsilon, int64_t width, float* out) {
  const float mean = SumOfSquares(x, width) / static_cast<float>(width);
  const __m256 scale = _mm256_set1_ps(1 / __builtin_sqrtf(mean + epsilon));
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), scale);
    _mm256_storeu_ps(out + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(weight + i)));
  }
  if (i < width) {
    const __m256i mask = FirstLanes(width - i);
    const __m256 scaled = _mm256_mul_ps(_mm256_maskload_ps(x + i, mask), scale);
    _mm256_maskstore_ps(out + i, mask, _mm256_mul_ps(scaled, _mm256_maskload_ps(weight + i, mask)));
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

}  // namespace interlace::avx2
