// swiglu: out[t, i] = silu(gate[t, i]) * up[t, i], silu(v) = v / (1 + exp(-v)). out may be gate.
// Source: Shazeer, "GLU Variants Improve Transformer", 2020.
#pragma once

#include "kernels/tensor.h"

namespace interlace {

struct SwigluArgs {
  Tensor out;   // F32 [tokens, width]
  Tensor gate;  // F32 [tokens, width]
  Tensor up;    // F32 [tokens, width]
};
inline constexpr double kSwigluTolerance = 2e-6;  // relative: the vector exp differs from libm in the last bits

}  // namespace interlace
