#include <cstring>
#include <vector>

#include "kernels/cpu/variants.h"
#include "kernels/dequantise.h"

namespace interlace::reference {

void Linear(const LinearArgs& args, ThreadTeam& /*team*/) {
  const int64_t k = args.w.cols;
  std::vector<float> w(k);
  for (int64_t r = 0; r < args.w.rows; ++r) {
    DequantiseRow(args.w.dtype, args.w.Rows(r, 1).data, k, w.data());
    for (int64_t t = 0; t < args.x.rows; ++t) {
      const float* x = args.x.f32_row(t);
      float sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += x[i] * w[i];
      float& y = args.y.f32_row(t)[r];
      y = args.accumulate ? y + sum : sum;
    }
  }
}

}  // namespace interlace::reference
