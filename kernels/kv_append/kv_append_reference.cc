#include "common/check.h"
#include "kernels/cpu/variants.h"

namespace interlace::reference {
namespace {

void AppendRow(const KvBlockShape& shape, const float* k, const float* v, std::byte* block, int64_t slot) {
  auto* block_k = reinterpret_cast<float*>(block);
  float* block_v = block_k + shape.k_elements();
  for (int64_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      block_k[(head * shape.head_dim + d) * shape.block_tokens + slot] = k[head * shape.head_dim + d];
      block_v[(head * shape.block_tokens + slot) * shape.head_dim + d] = v[head * shape.head_dim + d];
    }
  }
}

}  // namespace

void KvAppend(const KvAppendArgs& args, OpContext /*on*/) {
  CHECK(args.shape.dtype == DType::kF32);
  for (const SequenceRows& s : args.sequences) {
    for (int64_t t = 0; t < s.rows; ++t) {
      const int64_t position = s.start + t;
      AppendRow(args.shape, args.k.f32_row(s.row + t), args.v.f32_row(s.row + t),
                s.blocks[position / args.shape.block_tokens], position % args.shape.block_tokens);
    }
  }
}

}  // namespace interlace::reference
