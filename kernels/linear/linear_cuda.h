// Device bodies beside the product: activations to BF16, bias, gate. One block per token.
#pragma once

#include "kernels/cuda/device.h"

namespace interlace::cuda {

struct ToBf16Params {
  uint16_t* out;  // BF16 [tokens, stride]; columns from k on become 0
  const float* x;
  int64_t k;
  int64_t stride;
};

template <class Block>
INTERLACE_DEVICE void ToBf16Block(const ToBf16Params& p, Block& block) {
  const float* x = p.x + block.x() * p.k;
  uint16_t* out = p.out + block.x() * p.stride;
  block.For(p.stride, [&](int64_t i) { out[i] = i < p.k ? ToBf16(x[i]) : uint16_t{0}; });
}

struct AddBiasParams {
  float* y;  // [tokens, rows]
  const float* bias;
  int64_t rows;
};

template <class Block>
INTERLACE_DEVICE void AddBiasBlock(const AddBiasParams& p, Block& block) {
  float* y = p.y + block.x() * p.rows;
  block.For(p.rows, [&](int64_t r) { y[r] += p.bias[r]; });
}

struct GateParams {
  float* out;         // [tokens, rows], becomes act(gate) * up; may be either of them
  const float* gate;  // [tokens, rows]
  const float* up;
  int64_t rows;
  int32_t gelu;  // 0: SiLU
  int32_t unused = 0;
};

template <class Block>
INTERLACE_DEVICE void GateBlock(const GateParams& p, Block& block) {
  const float* gate = p.gate + block.x() * p.rows;
  const float* up = p.up + block.x() * p.rows;
  float* out = p.out + block.x() * p.rows;
  block.For(p.rows, [&](int64_t r) {
    const float v = gate[r];
    const float active =
        p.gelu != 0 ? 0.5f * v * (1 + tanhf(0.7978845608028654f * (v + 0.044715f * v * v * v))) : v / (1 + expf(-v));
    out[r] = active * up[r];
  });
}

}  // namespace interlace::cuda
