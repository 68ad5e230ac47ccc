// Device body of kv_append: one block per new token.
#pragma once

#include "kernels/cuda/kv_device.h"

namespace interlace::cuda {

struct KvAppendParams {
  const float* k;  // [tokens, kv_heads * head_dim]
  const float* v;
  const KvRow* rows;
  unsigned char* const* blocks;
  KvGeometry kv;
};

// Largest magnitude of a head / 127; NaN if any element is.
INTERLACE_DEVICE float ScaleOf(const float* head, int32_t head_dim) {
  float largest = 0;
  for (int32_t d = 0; d < head_dim; ++d) {
    const float magnitude = fabsf(head[d]);
    if (magnitude > largest || magnitude != magnitude) largest = magnitude;
    if (largest != largest) break;
  }
  return largest / 127;
}

template <class Block>
INTERLACE_DEVICE void KvAppendBlock(const KvAppendParams& p, Block& block) {
  const KvGeometry& g = p.kv;
  const KvRow row = p.rows[block.x()];
  const int64_t slot = row.position % g.block_tokens;
  const KvBlockView to = ViewOf(g, p.blocks[row.first_block + row.position / g.block_tokens]);
  const int64_t width = static_cast<int64_t>(g.kv_heads) * g.head_dim;
  const float* k = p.k + row.row * width;
  const float* v = p.v + row.row * width;
  if (g.type == KvType::kI8) {
    block.For(g.kv_heads, [&](int64_t head) {
      to.k_scale[head * g.block_tokens + slot] = ScaleOf(k + head * g.head_dim, g.head_dim);
      to.v_scale[head * g.block_tokens + slot] = ScaleOf(v + head * g.head_dim, g.head_dim);
    });
  }
  block.For(width, [&](int64_t i) {
    const int64_t head = i / g.head_dim, d = i % g.head_dim;
    const int64_t scale_at = head * g.block_tokens + slot;
    const bool scaled = g.type == KvType::kI8;
    StoreKv(g.type, to.k, i * g.block_tokens + slot, k[i], scaled ? to.k_scale[scale_at] : 1);
    StoreKv(g.type, to.v, scale_at * g.head_dim + d, v[i], scaled ? to.v_scale[scale_at] : 1);
  });
}

}  // namespace interlace::cuda
