// rope: rotates pairs of each head in place by position * frequency. With fewer frequencies than pairs the first
// 2 * frequencies of each head are rotated, as if they were the head, and the others stay (Phi-4-mini: 96 of 128).
// Sources: Su et al., "RoFormer", 2021; Peng et al., "YaRN", 2023 (its attention factor is `magnitude`).
#pragma once

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace interlace {

// Which elements of a head form pair i: (2i, 2i+1), the order in which GGUF stores a Llama's Q and K rows; or
// (i, i + rotated/2), that of all other families and of safetensors.
enum class RopePairs : uint8_t { kAdjacent, kHalves };

struct RopeArgs {
  Tensor x;                             // F32 [tokens, heads * head_dim], in place
  absl::Span<const int32_t> positions;  // [tokens]
  absl::Span<const float> frequencies;  // [rotated / 2]: base^(-2i/rotated), divided by the model's factor if any
  int32_t head_dim = 0;                 // even, at least rotated
  RopePairs pairs = RopePairs::kAdjacent;
  float magnitude = 1;  // both outputs of a pair are multiplied by it
};
inline constexpr double kRopeTolerance = 1e-6;

}  // namespace interlace
