// kv_append: writes the K and V rows of new tokens into their blocks.
//
// A block holds `block_tokens` tokens of one layer: K as [kv_head][head_dim][block_tokens] (transposed, so that scores
// of neighbouring tokens are neighbours), then V as [kv_head][block_tokens][head_dim]; both F32.
#pragma once

#include <cstddef>

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace interlace {

struct KvBlockShape {
  int32_t block_tokens = 16;  // multiple of 8, at most 512
  int32_t kv_heads = 0;
  int32_t head_dim = 0;  // multiple of 8, at most 1024
  int64_t k_elements() const { return int64_t{block_tokens} * kv_heads * head_dim; }
  int64_t bytes() const { return 2 * k_elements() * int64_t{sizeof(float)}; }
  friend bool operator==(const KvBlockShape&, const KvBlockShape&) = default;
};

struct KvAppendArgs {
  KvBlockShape shape;
  Tensor k;                             // F32 [tokens, kv_heads * head_dim]
  Tensor v;                             // F32 [tokens, kv_heads * head_dim]
  absl::Span<std::byte* const> blocks;  // the sequence's blocks in order; those that positions touch are non-null
  int32_t start = 0;                    // position in the sequence of row 0; rows are consecutive positions
};
inline constexpr double kKvAppendTolerance = 0;

}  // namespace interlace
