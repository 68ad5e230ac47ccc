#include <cmath>
#include <limits>
#include <vector>

#include "common/check.h"
#include "kernels/cpu/variants.h"

namespace interlace::reference {
namespace {

struct Row {
  const SequenceRows* sequence;
  int64_t index;  // in q and out
  int64_t position;
};

const float* BlockK(const PagedAttentionArgs& args, const Row& row, int64_t position) {
  return reinterpret_cast<const float*>(row.sequence->blocks[position / args.shape.block_tokens]);
}

float Score(const PagedAttentionArgs& args, const Row& row, const float* q, int64_t kv_head, int64_t position) {
  const int64_t block_tokens = args.shape.block_tokens;
  const int64_t head_dim = args.shape.head_dim;
  const float* k = BlockK(args, row, position) + kv_head * head_dim * block_tokens + position % block_tokens;
  float sum = 0;
  for (int64_t d = 0; d < head_dim; ++d) sum += q[d] * k[d * block_tokens];
  sum *= args.scale;
  return args.soft_cap > 0 ? args.soft_cap * std::tanh(sum / args.soft_cap) : sum;
}

void AttendRow(const PagedAttentionArgs& args, const Row& row, int64_t head, std::vector<float>& scores) {
  const int64_t head_dim = args.shape.head_dim;
  const int64_t kv_head = head / (args.heads / args.shape.kv_heads);
  const float* q = args.q.f32_row(row.index) + head * head_dim;
  float* out = args.out.f32_row(row.index) + head * head_dim;

  const int64_t end = row.position + 1;
  const int64_t begin = args.window > 0 && end > args.window ? end - args.window : 0;
  scores.resize(end - begin);
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t p = begin; p < end; ++p) {
    scores[p - begin] = Score(args, row, q, kv_head, p);
    if (scores[p - begin] > largest) largest = scores[p - begin];
  }
  // A row whose scores are all -inf weighs nothing: its output is 0/0.
  if (largest == -std::numeric_limits<float>::infinity()) largest = 0;
  float sum = 0;
  for (float& score : scores) {
    score = std::exp(score - largest);
    sum += score;
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] = 0;
  for (int64_t p = begin; p < end; ++p) {
    const float* v = BlockK(args, row, p) + args.shape.k_elements() +
                     (kv_head * args.shape.block_tokens + p % args.shape.block_tokens) * head_dim;
    for (int64_t d = 0; d < head_dim; ++d) out[d] += scores[p - begin] * v[d];
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] /= sum;
  if (args.lse != nullptr) args.lse[row.index * args.heads + head] = largest + std::log(sum);
}

}  // namespace

void PagedAttention(const PagedAttentionArgs& args, OpContext /*on*/) {
  CHECK(args.shape.dtype == DType::kF32);
  std::vector<float> scores;
  for (const SequenceRows& s : args.sequences) {
    for (int64_t t = 0; t < s.rows; ++t) {
      for (int64_t head = 0; head < args.heads; ++head) AttendRow(args, {&s, s.row + t, s.start + t}, head, scores);
    }
  }
}

}  // namespace interlace::reference
