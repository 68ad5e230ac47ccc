#include <cmath>
#include <cstring>

#include "common/check.h"
#include "kernels/cpu/variants.h"
#include "kernels/dequantise.h"

namespace interlace::reference {
namespace {

// The head of one token, as stored. T is the element's integer type, or float.
template <typename T, typename Round>
void StoreRow(const KvBlockShape& shape, const float* k, const float* v, std::byte* block, int64_t slot, Round round) {
  auto* block_k = reinterpret_cast<T*>(block);
  T* block_v = block_k + shape.k_elements();
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      block_k[(head * shape.head_dim + d) * shape.block_tokens + slot] = round(k[head * shape.head_dim + d]);
      block_v[(head * shape.block_tokens + slot) * shape.head_dim + d] = round(v[head * shape.head_dim + d]);
    }
  }
}

float ScaleOf(const float* head, int64_t head_dim) {
  float largest = 0;
  for (int64_t d = 0; d < head_dim; ++d) {
    const float size = std::fabs(head[d]);
    if (size > largest || std::isnan(size)) largest = size;
    if (std::isnan(largest)) break;
  }
  return largest / 127;
}

int8_t CodeOf(float x, float scale) {
  // A head of zeros has scale 0; one with a NaN or infinity has such a scale, and reads back as NaN whatever its codes.
  if (!(scale > 0) || std::isinf(scale)) return 0;
  const float code = std::nearbyint(x / scale);
  return static_cast<int8_t>(code > 127 ? 127 : code < -127 ? -127 : code);
}

void StoreRowI8(const KvBlockShape& shape, const float* k, const float* v, std::byte* block, int64_t slot) {
  auto* block_k = reinterpret_cast<int8_t*>(block);
  int8_t* block_v = block_k + shape.k_elements();
  auto* k_scales = reinterpret_cast<float*>(block_v + shape.k_elements());
  float* v_scales = k_scales + int64_t{shape.block_tokens} * shape.kv_heads;
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    const float* k_head = k + head * shape.head_dim;
    const float* v_head = v + head * shape.head_dim;
    const float k_scale = ScaleOf(k_head, shape.head_dim);
    const float v_scale = ScaleOf(v_head, shape.head_dim);
    k_scales[head * shape.block_tokens + slot] = k_scale;
    v_scales[head * shape.block_tokens + slot] = v_scale;
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      block_k[(head * shape.head_dim + d) * shape.block_tokens + slot] = CodeOf(k_head[d], k_scale);
      block_v[(head * shape.block_tokens + slot) * shape.head_dim + d] = CodeOf(v_head[d], v_scale);
    }
  }
}

void AppendRow(const KvBlockShape& shape, const float* k, const float* v, std::byte* block, int64_t slot) {
  switch (shape.dtype) {
    case DType::kF32:
      return StoreRow<float>(shape, k, v, block, slot, [](float x) { return x; });
    case DType::kF16:
      return StoreRow<uint16_t>(shape, k, v, block, slot, &F32ToF16);
    case DType::kBF16:
      return StoreRow<uint16_t>(shape, k, v, block, slot, &F32ToBF16);
    case DType::kI8:
      return StoreRowI8(shape, k, v, block, slot);
    default:
      CHECK_MSG(false, "not a type of the KV cache");
  }
}

}  // namespace

void KvAppend(const KvAppendArgs& args, OpContext /*on*/) {
  for (const SequenceRows& s : args.sequences) {
    for (int64_t t = 0; t < s.rows; ++t) {
      const int64_t position = s.start + t;
      AppendRow(args.shape, args.k.f32_row(s.row + t), args.v.f32_row(s.row + t),
                s.blocks[position / args.shape.block_tokens], position % args.shape.block_tokens);
    }
  }
}

}  // namespace interlace::reference
