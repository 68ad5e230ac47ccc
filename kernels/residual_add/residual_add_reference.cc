#include "kernels/cpu/variants.h"

namespace interlace::reference {

void ResidualAdd(const ResidualAddArgs& args, OpContext /*on*/) {
  float* x = args.x.f32();
  const float* y = args.y.f32();
  for (int64_t i = 0; i < args.x.rows * args.x.cols; ++i) x[i] += args.scale * y[i];
}

}  // namespace interlace::reference
