// kv_append: writes the K and V rows of new tokens into their blocks (paged_attention/kv_block.h), rounded to the
// block's type: to nearest, ties to even; kI8: x / scale to nearest, scale = largest magnitude of the row's head / 127.
#pragma once

#include "kernels/paged_attention/kv_block.h"
#include "kernels/tensor.h"

namespace interlace {

struct KvAppendArgs {
  KvBlockShape shape;
  Tensor k;  // F32 [tokens, kv_heads * head_dim]
  Tensor v;  // F32 [tokens, kv_heads * head_dim]
  absl::Span<const SequenceRows> sequences;
};
inline constexpr double kKvAppendTolerance = 0;

}  // namespace interlace
