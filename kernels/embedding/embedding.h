// embedding: out[t, :] = table[tokens[t], :] * scale, dequantised to F32.
#pragma once

#include "absl/types/span.h"
#include "kernels/linear/linear.h"
#include "kernels/tensor.h"

namespace interlace {

struct EmbeddingArgs {
  Tensor out;                        // F32 [tokens, table.k]
  LinearWeight table;                // [vocab, width], packed: it may be the output head too
  absl::Span<const int32_t> tokens;  // each in [0, vocab)
  float scale = 1;                   // Gemma: sqrt(width)
};
inline constexpr double kEmbeddingTolerance = 0;  // exact in every variant

}  // namespace interlace
