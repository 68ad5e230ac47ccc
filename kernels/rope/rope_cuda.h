// Device body of rope: one block per token; a thread turns one pair of one head.
#pragma once

#include "kernels/cuda/device.h"

namespace interlace::cuda {

struct RopeParams {
  float* x;  // [tokens, heads * head_dim]
  const int32_t* positions;
  const float* frequencies;  // [pairs]
  int32_t heads;
  int32_t head_dim;
  int32_t pairs;   // rotated, of each head
  int32_t stride;  // between pairs, in elements
  int32_t apart;   // the two elements of a pair
  float magnitude;
};

template <class Block>
INTERLACE_DEVICE void RopeBlock(const RopeParams& p, Block& block) {
  const int32_t pairs = p.pairs;
  float* row = p.x + block.x() * p.heads * p.head_dim;
  const auto position = static_cast<float>(p.positions[block.x()]);
  block.For(static_cast<int64_t>(p.heads) * pairs, [&](int64_t item) {
    const int64_t i = item % pairs;
    float* head = row + item / pairs * p.head_dim;
    float& first = head[i * p.stride];
    float& second = head[i * p.stride + p.apart];
    const float angle = position * p.frequencies[i];
    const float c = cosf(angle) * p.magnitude;
    const float s = sinf(angle) * p.magnitude;
    const float a = first, b = second;
    first = a * c - b * s;
    second = a * s + b * c;
  });
}

}  // namespace interlace::cuda
