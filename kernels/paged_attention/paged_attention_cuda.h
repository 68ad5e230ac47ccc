// Device body of paged_attention: one block per (row, head); tiles of kCudaThreads positions counted from position 0,
// with a running largest score and sum. Plain: every block reads its KV head's K and V for itself.
#pragma once

#include "kernels/cuda/kv_device.h"

namespace interlace::cuda {

inline constexpr int kAttentionTile = 128;  // positions
inline constexpr int kMaxHeadDim = 1024;    // q and the output of a head lie in shared memory, with a tile's scores
static_assert(2 * kMaxHeadDim + kAttentionTile <= kCudaSharedFloats);

struct PagedAttentionParams {
  float* out;  // [tokens, heads * head_dim]
  const float* q;
  float* lse;  // [tokens, heads], or null
  const KvRow* rows;
  unsigned char* const* blocks;
  KvGeometry kv;
  int32_t heads;
  float scale;
  int32_t window;
  float soft_cap;
};

INTERLACE_DEVICE float AttentionScore(const PagedAttentionParams& p, const KvRow& row, const float* q, int64_t kv_head,
                                      int64_t position) {
  const KvGeometry& g = p.kv;
  const KvBlockView block = ViewOf(g, p.blocks[row.first_block + position / g.block_tokens]);
  const int64_t slot = position % g.block_tokens;
  const int64_t first = kv_head * g.head_dim * g.block_tokens + slot;
  float sum = 0;
  for (int32_t d = 0; d < g.head_dim; ++d) {
    sum = fmaf(q[d], LoadKv(g.type, block.k, first + static_cast<int64_t>(d) * g.block_tokens), sum);
  }
  if (g.type == KvType::kI8) sum *= block.k_scale[kv_head * g.block_tokens + slot];
  sum *= p.scale;
  return p.soft_cap > 0 ? p.soft_cap * tanhf(sum / p.soft_cap) : sum;
}

INTERLACE_DEVICE float AttentionValue(const PagedAttentionParams& p, const KvRow& row, int64_t kv_head,
                                      int64_t position, int64_t d) {
  const KvGeometry& g = p.kv;
  const KvBlockView block = ViewOf(g, p.blocks[row.first_block + position / g.block_tokens]);
  const int64_t at = kv_head * g.block_tokens + position % g.block_tokens;
  const float value = LoadKv(g.type, block.v, at * g.head_dim + d);
  return g.type == KvType::kI8 ? value * block.v_scale[at] : value;
}

template <class Block>
INTERLACE_DEVICE void PagedAttentionBlock(const PagedAttentionParams& p, Block& block) {
  const int32_t head_dim = p.kv.head_dim;
  const int64_t head = block.y();
  const int64_t kv_head = head / (p.heads / p.kv.kv_heads);
  const KvRow row = p.rows[block.x()];
  const int64_t head_at = (row.row * p.heads + head) * head_dim;
  float* const q = block.shared();            // [head_dim]
  float* const out = q + head_dim;            // [head_dim]
  float* const scores = q + 2 * kMaxHeadDim;  // [kAttentionTile]
  block.For(head_dim, [&](int64_t d) {
    q[d] = p.q[head_at + d];
    out[d] = 0;
  });

  const int64_t end = static_cast<int64_t>(row.position) + 1;
  const int64_t begin = p.window > 0 && end > p.window ? end - p.window : 0;
  float largest = MinusInfinity();
  float sum = 0;
  for (int64_t tile = begin / kAttentionTile; tile * kAttentionTile < end; ++tile) {
    const int64_t first = tile * kAttentionTile > begin ? tile * kAttentionTile : begin;
    const int64_t after = (tile + 1) * kAttentionTile;
    const int64_t count = (after < end ? after : end) - first;
    block.For(count, [&](int64_t i) { scores[i] = AttentionScore(p, row, q, kv_head, first + i); });
    const float of_tile = block.Max(count, [&](int64_t i) { return scores[i]; });
    const float former = largest;
    if (of_tile > largest) largest = of_tile;
    // Scores that are all -inf weigh nothing; exp(-inf - -inf) would be NaN.
    const float base = largest == MinusInfinity() ? 0 : largest;
    const float keep = former == MinusInfinity() ? 0 : expf(former - base);
    block.For(count, [&](int64_t i) { scores[i] = expf(scores[i] - base); });
    sum = sum * keep + block.template Sum<float>(count, [&](int64_t i) { return scores[i]; });
    block.For(head_dim, [&](int64_t d) {
      float total = out[d] * keep;
      for (int64_t i = 0; i < count; ++i) total = fmaf(scores[i], AttentionValue(p, row, kv_head, first + i, d), total);
      out[d] = total;
    });
  }
  block.For(head_dim, [&](int64_t d) { p.out[head_at + d] = out[d] / sum; });
  if (p.lse != nullptr) {
    const float base = largest == MinusInfinity() ? 0 : largest;
    block.For(1, [&](int64_t) { p.lse[row.row * p.heads + head] = base + logf(sum); });
  }
}

}  // namespace interlace::cuda
