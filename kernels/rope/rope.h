// rope: rotates pairs of each head in place by position * frequency.
// Source: Su et al., "RoFormer", 2021. Pairs are (2i, 2i+1): the order in which GGUF stores a Llama's Q and K rows.
#pragma once

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace interlace {

struct RopeArgs {
  Tensor x;                             // F32 [tokens, heads * head_dim], in place
  absl::Span<const int32_t> positions;  // [tokens]
  absl::Span<const float> frequencies;  // [head_dim / 2]: base^(-2i/head_dim), divided by the model's factor if any
  int32_t head_dim = 0;                 // even
};
inline constexpr double kRopeTolerance = 1e-6;

}  // namespace interlace
