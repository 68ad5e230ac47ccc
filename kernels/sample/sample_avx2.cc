#include <limits>

#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"
#include "kernels/sample/sample_rows.h"

namespace interlace::avx2 {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// All bits set where x is finite.
[[gnu::always_inline]] inline __m256 IsFinite(__m256 x) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
  return _mm256_cmp_ps(magnitude, _mm256_set1_ps(kInf), _CMP_LT_OQ);
}

[[gnu::always_inline]] inline __m256 FiniteOrLowest(__m256 x) {
  return _mm256_blendv_ps(_mm256_set1_ps(-kInf), x, IsFinite(x));
}

void BlockMaxima(const float* logits, int64_t vocab, float* maxima) {
  int64_t begin = 0;
  for (; begin + kSampleBlock <= vocab; begin += kSampleBlock) {
    const float* x = logits + begin;
    const __m256 a = _mm256_max_ps(FiniteOrLowest(_mm256_loadu_ps(x)), FiniteOrLowest(_mm256_loadu_ps(x + 8)));
    const __m256 b = _mm256_max_ps(FiniteOrLowest(_mm256_loadu_ps(x + 16)), FiniteOrLowest(_mm256_loadu_ps(x + 24)));
    *maxima++ = MaxLanes(_mm256_max_ps(a, b));
  }
  if (begin == vocab) return;
  __m256 largest = _mm256_set1_ps(-kInf);
  for (; begin < vocab; begin += kLanes) {
    const __m256i some = FirstLanes(vocab - begin < kLanes ? vocab - begin : kLanes);
    const __m256 x = FiniteOrLowest(_mm256_maskload_ps(logits + begin, some));
    largest = _mm256_max_ps(largest, _mm256_blendv_ps(_mm256_set1_ps(-kInf), x, _mm256_castsi256_ps(some)));
  }
  *maxima = MaxLanes(largest);
}

// SampleWeight of eight logits; 0 outside of `wanted`.
[[gnu::always_inline]] inline __m256 Weights(__m256 logits, __m256 largest, __m256 temperature, __m256 wanted) {
  const __m256 x = _mm256_div_ps(_mm256_sub_ps(logits, largest), temperature);
  wanted = _mm256_and_ps(wanted, _mm256_cmp_ps(x, _mm256_set1_ps(kWeightLowest), _CMP_GT_OQ));
  const __m256 round = _mm256_set1_ps(kWeightRound);
  const __m256 n = _mm256_sub_ps(_mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(kWeightLog2E)), round), round);
  __m256 r = _mm256_sub_ps(x, _mm256_mul_ps(n, _mm256_set1_ps(kWeightLn2High)));
  r = _mm256_sub_ps(r, _mm256_mul_ps(n, _mm256_set1_ps(kWeightLn2Low)));
  __m256 p = _mm256_set1_ps(kWeightPolynomial[0]);
  for (int i = 1; i < 6; ++i) p = _mm256_add_ps(_mm256_mul_ps(p, r), _mm256_set1_ps(kWeightPolynomial[i]));
  p = _mm256_add_ps(_mm256_add_ps(_mm256_mul_ps(p, _mm256_mul_ps(r, r)), r), _mm256_set1_ps(1));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), wanted);
}

double WeightSum(const float* logits, int64_t vocab, float largest, float temperature) {
  const __m256 top = _mm256_set1_ps(largest), t = _mm256_set1_ps(temperature);
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  for (int64_t i = 0; i < vocab; i += kLanes) {
    __m256 x, wanted;
    if (i + kLanes <= vocab) {
      x = _mm256_loadu_ps(logits + i);
      wanted = IsFinite(x);
    } else {
      const __m256i some = FirstLanes(vocab - i);
      x = _mm256_maskload_ps(logits + i, some);
      wanted = _mm256_and_ps(IsFinite(x), _mm256_castsi256_ps(some));
    }
    const __m256 w = Weights(x, top, t, wanted);
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(w)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(w, 1)));
  }
  double lanes[8];
  _mm256_storeu_pd(lanes, low);
  _mm256_storeu_pd(lanes + 4, high);
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

}  // namespace

void Sample(const SampleArgs& args, OpContext on) { SampleRows(args, {&BlockMaxima, &WeightSum}, on.team()); }

}  // namespace interlace::avx2
