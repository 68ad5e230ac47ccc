// What the variants of sample share: all of it but the two passes over a whole row.
#pragma once

#include <cstdint>

#include "kernels/sample/sample.h"
#include "kernels/thread_team.h"

namespace interlace {

inline constexpr int64_t kSampleBlock = 32;  // logits

// Each variant computes the same bits.
struct SamplePasses {
  // The largest finite value of every kSampleBlock logits, the last block may be short; -inf: it has none.
  void (*block_maxima)(const float* logits, int64_t vocab, float* maxima);
  // The sum of SampleWeight over the finite logits, in F64: lane i % 8 adds up in order, then ((0+1)+(2+3)) +
  // ((4+5)+(6+7)).
  double (*weight_sum)(const float* logits, int64_t vocab, float largest, float temperature);
};

// exp((logit - largest) / temperature) of a finite logit <= largest: F32 without fused steps, so that every variant can
// do the same. About one unit in the last place; 1 for the largest, 0 below exp(-86).
float SampleWeight(float logit, float largest, float temperature);

// The exponential's constants: 2^n times Cephes' polynomial (Moshier).
inline constexpr float kWeightLowest = -86.0f;
inline constexpr float kWeightLog2E = 1.44269504088896341f;
inline constexpr float kWeightRound = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds to an integer
inline constexpr float kWeightLn2High = 0.693359375f;
inline constexpr float kWeightLn2Low = -2.12194440e-4f;
inline constexpr float kWeightPolynomial[6] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                               4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};

void SampleRows(const SampleArgs& args, const SamplePasses& passes, ThreadTeam& team);

}  // namespace interlace
