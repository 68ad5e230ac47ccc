#include <cmath>

#include "kernels/cpu/variants.h"

namespace interlace::reference {

void SoftCap(const SoftCapArgs& args, OpContext /*on*/) {
  float* x = args.x.f32();
  for (int64_t i = 0; i < args.x.rows * args.x.cols; ++i) x[i] = args.cap * std::tanh(x[i] / args.cap);
}

}  // namespace interlace::reference
