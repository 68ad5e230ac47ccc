#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/variants.h"
#include "kernels/sample/sample_rows.h"

namespace interlace {

float SampleWeight(float logit, float largest, float temperature) {
  const float x = (logit - largest) / temperature;
  if (!(x > kWeightLowest)) return 0;
  const float n = (x * kWeightLog2E + kWeightRound) - kWeightRound;
  float r = x - n * kWeightLn2High;
  r = r - n * kWeightLn2Low;
  float p = kWeightPolynomial[0];
  for (int i = 1; i < 6; ++i) p = p * r + kWeightPolynomial[i];
  p = (p * (r * r) + r) + 1.0f;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

namespace reference {
namespace {

void BlockMaxima(const float* logits, int64_t vocab, float* maxima) {
  for (int64_t begin = 0; begin < vocab; begin += kSampleBlock) {
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t i = begin; i < std::min(vocab, begin + kSampleBlock); ++i) {
      if (std::isfinite(logits[i]) && logits[i] > largest) largest = logits[i];
    }
    *maxima++ = largest;
  }
}

double WeightSum(const float* logits, int64_t vocab, float largest, float temperature) {
  double lanes[8] = {};
  for (int64_t i = 0; i < vocab; ++i) {
    if (std::isfinite(logits[i])) lanes[i % 8] += SampleWeight(logits[i], largest, temperature);
  }
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

}  // namespace

void Sample(const SampleArgs& args, OpContext on) { SampleRows(args, {&BlockMaxima, &WeightSum}, on.team()); }

}  // namespace reference
}  // namespace interlace
