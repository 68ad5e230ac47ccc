#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/variants.h"

namespace interlace::reference {
namespace {

const float* BlockK(const PagedAttentionArgs& args, int64_t position) {
  return reinterpret_cast<const float*>(args.blocks[position / args.shape.block_tokens]);
}

float Score(const PagedAttentionArgs& args, const float* q, int64_t kv_head, int64_t position) {
  const int64_t block_tokens = args.shape.block_tokens;
  const int64_t head_dim = args.shape.head_dim;
  const float* k = BlockK(args, position) + kv_head * head_dim * block_tokens + position % block_tokens;
  float sum = 0;
  for (int64_t d = 0; d < head_dim; ++d) sum += q[d] * k[d * block_tokens];
  return sum * args.scale;
}

void AttendRow(const PagedAttentionArgs& args, int64_t t, int64_t head, std::vector<float>& scores) {
  const int64_t head_dim = args.shape.head_dim;
  const int64_t kv_head = head / (args.heads / args.shape.kv_heads);
  const float* q = args.q.f32_row(t) + head * head_dim;
  float* out = args.out.f32_row(t) + head * head_dim;

  const int64_t visible = args.start + t + 1;
  scores.resize(visible);
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t p = 0; p < visible; ++p) {
    scores[p] = Score(args, q, kv_head, p);
    if (scores[p] > largest) largest = scores[p];
  }
  // A row whose scores are all -inf weighs nothing: its output is 0/0.
  if (largest == -std::numeric_limits<float>::infinity()) largest = 0;
  float sum = 0;
  for (float& score : scores) {
    score = std::exp(score - largest);
    sum += score;
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] = 0;
  for (int64_t p = 0; p < visible; ++p) {
    const float* v = BlockK(args, p) + args.shape.k_elements() +
                     (kv_head * args.shape.block_tokens + p % args.shape.block_tokens) * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) out[d] += scores[p] * v[d];
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] /= sum;
  if (args.lse != nullptr) args.lse[t * args.heads + head] = largest + std::log(sum);
}

}  // namespace

void PagedAttention(const PagedAttentionArgs& args, ThreadTeam& /*team*/) {
  std::vector<float> scores;
  for (int64_t t = 0; t < args.q.rows; ++t) {
    for (int64_t head = 0; head < args.heads; ++head) AttendRow(args, t, head, scores);
  }
}

}  // namespace interlace::reference
