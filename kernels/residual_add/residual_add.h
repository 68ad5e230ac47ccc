// residual_add: x[t, :] += scale * y[t, :].
#pragma once

#include "kernels/tensor.h"

namespace interlace {

struct ResidualAddArgs {
  Tensor x;         // F32 [tokens, width], in place
  Tensor y;         // F32 [tokens, width]
  float scale = 1;  // Granite: its residual multiplier
};
// A product and a sum, each rounded: exact in every variant.
inline constexpr double kResidualAddTolerance = 0;

}  // namespace interlace
