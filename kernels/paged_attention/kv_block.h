// The layout of KV blocks, and the rows of a step that use them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kernels/dtype.h"

namespace interlace {

// A block holds `block_tokens` tokens of one layer: K as [kv_head][head_dim][block_tokens] (transposed, so that scores
// of neighbouring tokens are neighbours), then V as [kv_head][block_tokens][head_dim]. For kI8 the F32 scales follow:
// of K [kv_head][block_tokens], then of V [kv_head][block_tokens]; one token of one head has one scale.
struct KvBlockShape {
  int32_t block_tokens = 16;  // multiple of 8, at most 512
  int32_t kv_heads = 0;
  int32_t head_dim = 0;       // multiple of 8, at most 1024
  DType dtype = DType::kF32;  // kF32, kF16, kBF16 or kI8
  int64_t k_elements() const { return int64_t{block_tokens} * kv_heads * head_dim; }
  int64_t scale_bytes() const { return dtype == DType::kI8 ? int64_t{4} * block_tokens * kv_heads : 0; }  // of K
  int64_t bytes() const { return 2 * (k_elements() * TraitsOf(dtype).block_bytes + scale_bytes()); }
  friend bool operator==(const KvBlockShape&, const KvBlockShape&) = default;
};

// Rows [row, row + rows) of a step belong to one sequence, at consecutive positions from `start`.
struct SequenceRows {
  int64_t row = 0;
  int64_t rows = 0;
  int32_t start = 0;
  // The sequence's blocks in order, up to that of its last row. kv_append touches those of the new rows; attention
  // reads those that any row sees: with a window, blocks wholly before it may be null.
  absl::Span<std::byte* const> blocks;
};

}  // namespace interlace
