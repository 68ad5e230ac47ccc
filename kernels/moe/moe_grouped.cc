// moe_ffn over any table's linear ops: the rows of one expert are gathered and run together.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/variants.h"

namespace interlace {
namespace {

constexpr int64_t kTokensPerTask = 4;

void Combine(const MoeFfnArgs& args, const std::vector<int64_t>& row_of, int64_t token) {
  const int64_t slots = args.weights.cols, width = args.x.cols;
  const float* weights = args.weights.f32_row(token);
  float* out = args.out.f32_row(token);
  constexpr int64_t kPart = 256;
  float sum[kPart];
  for (int64_t begin = 0; begin < width; begin += kPart) {
    const int64_t count = std::min(kPart, width - begin);
    std::memset(sum, 0, sizeof sum);
    for (int64_t s = 0; s < slots; ++s) {
      const int64_t row = row_of[token * slots + s];
      if (row < 0) continue;
      const float* product = args.products.f32_row(row) + begin;
      for (int64_t i = 0; i < count; ++i) sum[i] += weights[s] * product[i];
    }
    for (int64_t i = 0; i < count; ++i) out[begin + i] += sum[i];
  }
}

}  // namespace

void GroupedMoeFfn(const MoeFfnArgs& args, OpContext on, void (*gated_linear)(const GatedLinearArgs&, OpContext),
                   void (*linear)(const LinearArgs&, OpContext)) {
  const int64_t slots = args.weights.cols;
  const auto entries = static_cast<int64_t>(args.experts.size());
  std::vector<int64_t> begin(args.table.size() + 1, 0);  // of an expert's rows
  for (int32_t expert : args.experts) ++begin[expert + 1];
  for (size_t e = 1; e < begin.size(); ++e) begin[e] += begin[e - 1];
  std::vector<int64_t> next(begin.begin(), begin.end() - 1), row_of(entries);
  for (int64_t i = 0; i < entries; ++i) {
    row_of[i] = next[args.experts[i]]++;
    std::memcpy(args.gathered.f32_row(row_of[i]), args.x.f32_row(i / slots), RowBytes(DType::kF32, args.x.cols));
  }
  for (size_t e = 0; e < args.table.size(); ++e) {
    const ExpertWeight& expert = args.table[e];
    const int64_t rows = begin[e + 1] - begin[e];
    if (rows == 0 || expert.gate.data == nullptr) continue;
    const Tensor gated{args.gated.f32_row(begin[e]), DType::kF32, rows, expert.gate.rows};
    gated_linear({gated, args.gathered.Rows(begin[e], rows), expert.gate, expert.up, args.kind}, on);
    linear({gated, {{args.products.Rows(begin[e], rows), expert.down}}}, on);
  }
  for (int64_t i = 0; i < entries; ++i) {
    if (args.table[args.experts[i]].gate.data == nullptr) row_of[i] = -1;
  }
  on.team().ParallelFor(args.x.rows, kTokensPerTask, [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; ++t) Combine(args, row_of, t);
  });
}

}  // namespace interlace
