// residual_add: x[t, :] += y[t, :].
#pragma once

#include "kernels/tensor.h"

namespace interlace {

struct ResidualAddArgs {
  Tensor x;  // F32 [tokens, width], in place
  Tensor y;  // F32 [tokens, width]
};
inline constexpr double kResidualAddTolerance = 0;  // one addition: exact in every variant

}  // namespace interlace
