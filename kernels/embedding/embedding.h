// embedding: out[t, :] = table[tokens[t], :], dequantised to F32.
#pragma once

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace interlace {

struct EmbeddingArgs {
  Tensor out;                        // F32 [tokens, width]
  Tensor table;                      // any weight dtype [vocab, width]
  absl::Span<const int32_t> tokens;  // each in [0, vocab)
};
inline constexpr double kEmbeddingTolerance = 0;  // exact in every variant

}  // namespace interlace
