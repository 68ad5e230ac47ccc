// paged_attention: causal attention of consecutive query tokens of one sequence over its paged KV, with log-sum-exp.
//
// Row t sits at position start + t and sees positions [0, start + t]. Query head h reads KV head h / (heads/kv_heads).
// scores = scale * q.k; out = softmax(scores) v; lse = log(sum(exp(scores))). Positions beyond the row's own are never
// read into a result, so a block's unwritten tail may hold anything, NaN included.
// Sources: Kwon et al., "PagedAttention", 2023 (pages); Milakov, Gimelshein, "Online normalizer", 2018 (one pass).
//
// The order of sums is fixed by position (tiles of block_tokens from position 0), so that a row's result depends
// neither on the chunk it came in nor on where blocks lie.
#pragma once

#include <cstddef>

#include "absl/types/span.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/tensor.h"

namespace interlace {

struct PagedAttentionArgs {
  Tensor out;            // F32 [tokens, heads * head_dim]
  Tensor q;              // F32 [tokens, heads * head_dim]
  float* lse = nullptr;  // [tokens, heads], or null
  KvBlockShape shape;
  absl::Span<const std::byte* const> blocks;  // blocks 0 .. (start + tokens - 1) / block_tokens, all non-null
  int32_t start = 0;
  int32_t heads = 0;  // multiple of kv_heads
  float scale = 1;    // 1 / sqrt(head_dim) as a rule
};
inline constexpr double kPagedAttentionTolerance = 5e-6;

}  // namespace interlace
