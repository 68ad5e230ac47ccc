// linear: y[t, r] = sum over k of x[t, k] * w[r, k] (+ y[t, r] when accumulate). Activations and sums are F32.
// The sum over k runs in one fixed order per variant, whatever the number of tokens.
#pragma once

#include "kernels/tensor.h"

namespace interlace {

struct LinearArgs {
  Tensor y;                 // F32 [tokens, rows]; never aliases x
  Tensor x;                 // F32 [tokens, k]
  Tensor w;                 // F32, F16, BF16, Q8_0, Q4_0 or Q4_1 [rows, k]
  bool accumulate = false;  // residual add
};
inline constexpr double kLinearTolerance = 2e-6;  // relative to sum |x||w|: summation order differs

}  // namespace interlace
