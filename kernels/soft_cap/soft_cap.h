// soft_cap: x[t, :] = cap * tanh(x[t, :] / cap), in place: logits that stay within (-cap, cap).
// Source: Gemma Team, "Gemma 2", 2024. Scores have their own cap, inside paged_attention.
#pragma once

#include "kernels/tensor.h"

namespace interlace {

struct SoftCapArgs {
  Tensor x;       // F32 [tokens, width], in place
  float cap = 0;  // above 0
};
inline constexpr double kSoftCapTolerance = 1e-6;  // relative to the cap

}  // namespace interlace
