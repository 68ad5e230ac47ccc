#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/variants.h"
#include "kernels/dequantise.h"

namespace interlace::reference {
namespace {

struct Row {
  const SequenceRows* sequence;
  int64_t index;  // in q and out
  int64_t position;
};

// Element `index` of a block's elements; K of a block lies before its V.
float Element(const KvBlockShape& shape, const std::byte* block, int64_t index) {
  switch (shape.dtype) {
    case DType::kF16:
      return F16ToF32(reinterpret_cast<const uint16_t*>(block)[index]);
    case DType::kBF16:
      return BF16ToF32(reinterpret_cast<const uint16_t*>(block)[index]);
    case DType::kI8:
      return reinterpret_cast<const int8_t*>(block)[index];
    default:
      return reinterpret_cast<const float*>(block)[index];
  }
}

// Scale `index` of a block's scales, those of K before those of V; 1 where the type has none.
float Scale(const KvBlockShape& shape, const std::byte* block, int64_t index) {
  if (shape.dtype != DType::kI8) return 1;
  return reinterpret_cast<const float*>(block + 2 * shape.k_elements())[index];
}

float Score(const PagedAttentionArgs& args, const Row& row, const float* q, int64_t kv_head, int64_t position) {
  const KvBlockShape& shape = args.shape;
  const std::byte* block = row.sequence->blocks[position / shape.block_tokens];
  const int64_t slot = position % shape.block_tokens;
  float sum = 0;
  for (int64_t d = 0; d < shape.head_dim; ++d) {
    sum += q[d] * Element(shape, block, (kv_head * shape.head_dim + d) * shape.block_tokens + slot);
  }
  sum *= Scale(shape, block, kv_head * shape.block_tokens + slot);
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
    const KvBlockShape& shape = args.shape;
    const std::byte* block = row.sequence->blocks[p / shape.block_tokens];
    const int64_t slot = kv_head * shape.block_tokens + p % shape.block_tokens;
    const float weight = scores[p - begin] * Scale(shape, block, int64_t{shape.block_tokens} * shape.kv_heads + slot);
    for (int64_t d = 0; d < head_dim; ++d) {
      out[d] += weight * Element(shape, block, shape.k_elements() + slot * head_dim + d);
    }
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] /= sum;
  if (args.lse != nullptr) args.lse[row.index * args.heads + head] = largest + std::log(sum);
}

}  // namespace

void PagedAttention(const PagedAttentionArgs& args, OpContext /*on*/) {
  std::vector<float> scores;
  for (const SequenceRows& s : args.sequences) {
    for (int64_t t = 0; t < s.rows; ++t) {
      for (int64_t head = 0; head < args.heads; ++head) AttendRow(args, {&s, s.row + t, s.start + t}, head, scores);
    }
  }
}

}  // namespace interlace::reference
