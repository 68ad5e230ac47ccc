#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx2 {
namespace {

constexpr int64_t kElementsPerTask = 4096;

__m256 SiluTimes(__m256 gate, __m256 up) {
  const __m256 exp = Exp(_mm256_xor_ps(gate, _mm256_set1_ps(-0.0f)));
  return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1), exp)), up);
}

}  // namespace

// Element by element: rows do not matter, nor where a range begins.
void Swiglu(const SwigluArgs& args, ThreadTeam& team) {
  const float* gate = args.gate.f32();
  const float* up = args.up.f32();
  float* out = args.out.f32();
  team.ParallelFor(args.gate.rows * args.gate.cols, kElementsPerTask, [&](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      _mm256_storeu_ps(out + i, SiluTimes(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    }
    if (i < end) {
      const __m256i mask = FirstLanes(end - i);
      const __m256 tail = SiluTimes(_mm256_maskload_ps(gate + i, mask), _mm256_maskload_ps(up + i, mask));
      _mm256_maskstore_ps(out + i, mask, tail);
    }
  });
}

}  // namespace interlace::avx2
