#include "kernels/cpu/variants.h"

namespace interlace::reference {

void KvAppend(const KvAppendArgs& args, ThreadTeam& /*team*/) {
  const int64_t block_tokens = args.shape.block_tokens;
  const int64_t head_dim = args.shape.head_dim;
  for (int64_t t = 0; t < args.k.rows; ++t) {
    const int64_t position = args.start + t;
    const int64_t slot = position % block_tokens;
    auto* block_k = reinterpret_cast<float*>(args.blocks[position / block_tokens]);
    float* block_v = block_k + args.shape.k_elements();
    const float* k = args.k.f32_row(t);
    const float* v = args.v.f32_row(t);
    for (int64_t head = 0; head < args.shape.kv_heads; ++head) {
      for (int64_t d = 0; d < head_dim; ++d) {
        block_k[(head * head_dim + d) * block_tokens + slot] = k[head * head_dim + d];
        block_v[(head * block_tokens + slot) * head_dim + d] = v[head * head_dim + d];
      }
    }
  }
}

}  // namespace interlace::reference
