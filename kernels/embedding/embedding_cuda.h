// Device body of embedding: one block per token.
#pragma once

#include "kernels/cuda/device.h"

namespace interlace::cuda {

struct EmbeddingParams {
  float* out;             // [tokens, width]
  const uint16_t* table;  // BF16 [vocab, stride]
  const int32_t* tokens;
  int64_t width;
  int64_t stride;
  float scale;
  int32_t unused = 0;
};

template <class Block>
INTERLACE_DEVICE void EmbeddingBlock(const EmbeddingParams& p, Block& block) {
  const uint16_t* row = p.table + p.tokens[block.x()] * p.stride;
  float* out = p.out + block.x() * p.width;
  block.For(p.width, [&](int64_t i) { out[i] = FromBf16(row[i]) * p.scale; });
}

}  // namespace interlace::cuda
