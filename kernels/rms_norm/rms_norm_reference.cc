#include <cmath>

#include "kernels/cpu/variants.h"

namespace interlace::reference {

void RmsNorm(const RmsNormArgs& args, OpContext /*on*/) {
  const int64_t width = args.x.cols;
  const float* weight = args.weight.f32();
  for (int64_t t = 0; t < args.x.rows; ++t) {
    const float* x = args.x.f32_row(t);
    float* out = args.out.f32_row(t);
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += double{x[i]} * double{x[i]};
    const auto scale = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(width) + args.epsilon));
    for (int64_t i = 0; i < width; ++i) out[i] = x[i] * scale * weight[i];
  }
}

}  // namespace interlace::reference
