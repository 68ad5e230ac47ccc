// paged_attention: causal attention of the query rows of a step over each sequence's paged KV, with log-sum-exp. All
// sequences of the call share one parallel region.
//
// A row at position p of its sequence sees positions [max(0, p + 1 - window), p]; window 0 sees all. Query head h reads
// KV head h / (heads / kv_heads). scores = scale * q.k, then soft_cap * tanh(scores / soft_cap) where soft_cap > 0;
// out = softmax(scores) v; lse = log(sum(exp(scores))). Positions that a row does not see are never read into a result,
// so a block's unwritten tail may hold anything, NaN included.
// Sources: Kwon et al., "PagedAttention", 2023 (pages); Milakov, Gimelshein, "Online normalizer", 2018 (one pass);
// Dao et al., "Flash-Decoding", 2023 (splits of one row, merged by log-sum-exp); Gemma 2, 2024 (soft cap).
//
// The order of sums is fixed by position (tiles and splits counted from position 0), so that a row's result depends
// neither on the chunk it came in, nor on who else is in the call, nor on where blocks lie or how many threads there
// are.
#pragma once

#include <cstddef>

#include "absl/types/span.h"
#include "kernels/paged_attention/kv_block.h"
#include "kernels/tensor.h"

namespace interlace {

struct PagedAttentionArgs {
  Tensor out;            // F32 [tokens, heads * head_dim]
  Tensor q;              // F32 [tokens, heads * head_dim]
  float* lse = nullptr;  // [tokens, heads], or null
  KvBlockShape shape;
  absl::Span<const SequenceRows> sequences;  // rows of no sequence are left alone
  int32_t heads = 0;                         // multiple of kv_heads
  float scale = 1;                           // 1 / sqrt(head_dim) as a rule
  int32_t window = 0;                        // positions; 0: all
  float soft_cap = 0;                        // 0: none
};
inline constexpr double kPagedAttentionTolerance = 5e-6;  // both sides read the same stored KV

// Table avx512bf16, where KV is kBF16: products of BF16, sums in F32. What is rounded to BF16, to nearest even (at most
// u = 2^-8 of its size), are q * (scale * kBf16ScoreUnit) and the weights 2^(score * kBf16ScoreUnit - largest); K and V
// are exact. Denormals count as zero. So a score is off by at most D = u * scale * max over positions of
// sum(|q[d] k[d]|), before a soft cap, which shrinks it; a weight then by a factor within exp(D) (1 + u) either way, and
//   |out - exact| <= (D + u) max|v|,  |lse - exact| <= D + u
// beside kPagedAttentionTolerance. Against the exact op on the rounded q, D is 0.
inline constexpr float kBf16ScoreUnit = 1.44269504088896341f;  // log2(e)
inline constexpr double kBf16Rounding = 0x1p-8;

}  // namespace interlace
