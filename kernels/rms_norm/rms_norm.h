// rms_norm: out[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + epsilon) * weight. out may be x.
// Source: Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019.
#pragma once

#include "kernels/tensor.h"

namespace interlace {

struct RmsNormArgs {
  Tensor out;     // F32 [tokens, width]
  Tensor x;       // F32 [tokens, width]
  Tensor weight;  // F32 [1, width]
  float epsilon = 1e-5f;
};
inline constexpr double kRmsNormTolerance = 1e-6;  // relative to the largest output: summation order differs

}  // namespace interlace
