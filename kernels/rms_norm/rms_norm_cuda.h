// Device body of rms_norm: one block per token. The sum of squares is F64, as the reference's.
#pragma once

#include "kernels/cuda/device.h"

namespace interlace::cuda {

struct RmsNormParams {
  float* out;  // [tokens, width]; may be x
  const float* x;
  const float* weight;
  int64_t width;
  float epsilon;
  int32_t unused = 0;
};

template <class Block>
INTERLACE_DEVICE void RmsNormBlock(const RmsNormParams& p, Block& block) {
  const float* x = p.x + block.x() * p.width;
  float* out = p.out + block.x() * p.width;
  const double squares = block.template Sum<double>(
      p.width, [&](int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
  const auto scale =
      static_cast<float>(1 / sqrt(squares / static_cast<double>(p.width) + static_cast<double>(p.epsilon)));
  block.For(p.width, [&](int64_t i) { out[i] = x[i] * scale * p.weight[i]; });
}

}  // namespace interlace::cuda
