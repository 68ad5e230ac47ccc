// Device body of soft_cap: one block per token.
#pragma once

#include "kernels/cuda/device.h"

namespace interlace::cuda {

struct SoftCapParams {
  float* x;  // [tokens, width]
  int32_t width;
  float cap;
};

template <class Block>
INTERLACE_DEVICE void SoftCapBlock(const SoftCapParams& p, Block& block) {
  float* x = p.x + block.x() * int64_t{p.width};
  block.For(p.width, [&](int64_t i) { x[i] = p.cap * tanhf(x[i] / p.cap); });
}

}  // namespace interlace::cuda
