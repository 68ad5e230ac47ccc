// KV blocks as device code sees them (paged_attention/kv_block.h), and the rows of a call.
#pragma once

#include "kernels/cuda/device.h"

namespace interlace::cuda {

enum class KvType : int32_t { kF32, kF16, kBf16, kI8 };

struct KvGeometry {
  int32_t block_tokens;
  int32_t kv_heads;
  int32_t head_dim;
  KvType type;
};

// A row of the call: which row of q or k, at which position, and where its sequence's blocks start in the list.
struct KvRow {
  int64_t row;
  int64_t first_block;
  int32_t position;
  int32_t unused;
};

INTERLACE_DEVICE int64_t KElements(const KvGeometry& g) {
  return static_cast<int64_t>(g.block_tokens) * g.kv_heads * g.head_dim;
}
INTERLACE_DEVICE int64_t ElementBytes(KvType type) { return type == KvType::kF32 ? 4 : type == KvType::kI8 ? 1 : 2; }

// The parts of one block.
struct KvBlockView {
  unsigned char* k;  // [kv_head][head_dim][block_tokens]
  unsigned char* v;  // [kv_head][block_tokens][head_dim]
  float* k_scale;    // kI8: [kv_head][block_tokens]
  float* v_scale;    // kI8: [kv_head][block_tokens]
};
INTERLACE_DEVICE KvBlockView ViewOf(const KvGeometry& g, unsigned char* block) {
  const int64_t half = KElements(g) * ElementBytes(g.type);
  auto* scales = reinterpret_cast<float*>(block + 2 * half);
  return {block, block + half, scales, scales + static_cast<int64_t>(g.kv_heads) * g.block_tokens};
}

INTERLACE_DEVICE float LoadKv(KvType type, const unsigned char* from, int64_t index) {
  switch (type) {
    case KvType::kF32:
      return reinterpret_cast<const float*>(from)[index];
    case KvType::kF16:
      return FromF16(reinterpret_cast<const uint16_t*>(from)[index]);
    case KvType::kBf16:
      return FromBf16(reinterpret_cast<const uint16_t*>(from)[index]);
    case KvType::kI8:
      break;
  }
  return static_cast<float>(reinterpret_cast<const signed char*>(from)[index]);
}

// `scale` is of kI8 alone.
INTERLACE_DEVICE void StoreKv(KvType type, unsigned char* to, int64_t index, float value, float scale) {
  switch (type) {
    case KvType::kF32:
      reinterpret_cast<float*>(to)[index] = value;
      return;
    case KvType::kF16:
      reinterpret_cast<uint16_t*>(to)[index] = ToF16(value);
      return;
    case KvType::kBf16:
      reinterpret_cast<uint16_t*>(to)[index] = ToBf16(value);
      return;
    case KvType::kI8:
      break;
  }
  // A head of zeros has scale 0; one with a NaN or infinity has such a scale, and reads back as NaN whatever its codes.
  const float code = scale > 0 && scale <= 3.402823466e38f ? rintf(value / scale) : 0.0f;
  reinterpret_cast<signed char*>(to)[index] = static_cast<signed char>(code > 127 ? 127 : code < -127 ? -127 : code);
}

}  // namespace interlace::cuda
