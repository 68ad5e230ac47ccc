#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx2 {
namespace {

constexpr int64_t kElementsPerTask = 1 << 13;  // fewer are not worth a barrier

// cap * (1 - 2 / (1 + e^(2 x / cap))): an infinite power gives cap, one of 0 gives -cap, NaN stays NaN.
[[gnu::always_inline]] inline __m256 Capped(__m256 x, __m256 cap, __m256 two_by_cap) {
  const __m256 one = _mm256_set1_ps(1), power = Exp(_mm256_mul_ps(x, two_by_cap));
  const __m256 away = _mm256_div_ps(_mm256_set1_ps(2), _mm256_add_ps(one, power));
  return _mm256_mul_ps(cap, _mm256_sub_ps(one, away));
}

}  // namespace

void SoftCap(const SoftCapArgs& args, OpContext on) {
  const int64_t count = args.x.rows * args.x.cols;
  float* x = args.x.f32();
  const __m256 cap = _mm256_set1_ps(args.cap), two_by_cap = _mm256_set1_ps(2 / args.cap);
  on.team().ParallelFor((count + kLanes - 1) / kLanes, kElementsPerTask / kLanes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kLanes; i < end * kLanes; i += kLanes) {
      if (i + kLanes <= count) {
        _mm256_storeu_ps(x + i, Capped(_mm256_loadu_ps(x + i), cap, two_by_cap));
      } else {
        const __m256i mask = FirstLanes(count - i);
        _mm256_maskstore_ps(x + i, mask, Capped(_mm256_maskload_ps(x + i, mask), cap, two_by_cap));
      }
    }
  });
}

}  // namespace interlace::avx2
