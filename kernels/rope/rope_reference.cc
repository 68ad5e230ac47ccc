#include <cmath>

#include "kernels/cpu/variants.h"

namespace interlace::reference {

void Rope(const RopeArgs& args, ThreadTeam& /*team*/) {
  const int64_t heads = args.x.cols / args.head_dim;
  const int32_t pairs = args.head_dim / 2;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    for (int32_t i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(args.positions[t]) * args.frequencies[i];
      const float c = std::cos(angle);
      const float s = std::sin(angle);
      for (int64_t h = 0; h < heads; ++h) {
        float* pair = args.x.f32_row(t) + h * args.head_dim + 2 * i;
        const float even = pair[0];
        const float odd = pair[1];
        pair[0] = even * c - odd * s;
        pair[1] = even * s + odd * c;
      }
    }
  }
}

}  // namespace interlace::reference
