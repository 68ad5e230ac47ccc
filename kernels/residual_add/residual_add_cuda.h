// Device body of residual_add: one block per token.
#pragma once

#include "kernels/cuda/device.h"

namespace interlace::cuda {

struct ResidualAddParams {
  float* x;  // [tokens, width]
  const float* y;
  int32_t width;
  float scale;
};

template <class Block>
INTERLACE_DEVICE void ResidualAddBlock(const ResidualAddParams& p, Block& block) {
  float* x = p.x + block.x() * int64_t{p.width};
  const float* y = p.y + block.x() * int64_t{p.width};
  block.For(p.width, [&](int64_t i) { x[i] += p.scale * y[i]; });
}

}  // namespace interlace::cuda
