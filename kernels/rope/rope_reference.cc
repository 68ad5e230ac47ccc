#include <cmath>

#include "kernels/cpu/variants.h"

namespace interlace::reference {

void Rope(const RopeArgs& args, OpContext /*on*/) {
  const int64_t heads = args.x.cols / args.head_dim;
  const auto pairs = static_cast<int32_t>(args.frequencies.size());
  const bool adjacent = args.pairs == RopePairs::kAdjacent;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    for (int32_t i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(args.positions[t]) * args.frequencies[i];
      const float c = std::cos(angle) * args.magnitude;
      const float s = std::sin(angle) * args.magnitude;
      for (int64_t h = 0; h < heads; ++h) {
        float* head = args.x.f32_row(t) + h * args.head_dim;
        float& first = head[adjacent ? 2 * i : i];
        float& second = head[adjacent ? 2 * i + 1 : i + pairs];
        const float a = first, b = second;
        first = a * c - b * s;
        second = a * s + b * c;
      }
    }
  }
}

}  // namespace interlace::reference
