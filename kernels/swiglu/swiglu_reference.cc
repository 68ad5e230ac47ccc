#include <cmath>

#include "kernels/cpu/variants.h"

namespace interlace::reference {

void Swiglu(const SwigluArgs& args, ThreadTeam& /*team*/) {
  const int64_t count = args.gate.rows * args.gate.cols;
  for (int64_t i = 0; i < count; ++i) {
    const float v = args.gate.f32()[i];
    args.out.f32()[i] = v / (1 + std::exp(-v)) * args.up.f32()[i];
  }
}

}  // namespace interlace::reference
