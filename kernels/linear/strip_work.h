// What a call of linear or gated_linear comes to on strips: pairs of strips, dealt to the threads. Plain code: the
// loops of an instruction set come in through StripKernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear/linear.h"
#include "kernels/linear/weight_strips.h"
#include "kernels/op_context.h"

namespace interlace::strips {

// x, quantised (linear_strips.h says how). Rows of q are k long; rows of the others have one element a block.
struct QuantisedX {
  uint8_t* q;
  float* d;             // scale
  float* sum;           // of (q - zero point)
  int32_t* start;       // two 16-bit factors: -(zero point) in the low half, -(sum of q) in the high one
  int32_t* start_half;  // [2] a block: the same with the sums of its halves
  int64_t k;
  int64_t blocks;
};

// One strip of one output: adds bias and what y holds, and writes rows that exist.
struct Target {
  float* y;  // of token 0, at the strip's first row
  int64_t stride;
  const float* bias;  // at the strip's first row
  bool accumulate;
  int rows;  // of the strip that exist
};

// A unit of work: two strips side by side. Plain: neighbours of one weight; gated: gate and up of the same rows.
struct Pair {
  const uint8_t* strip[2];  // the second may be null
  Target target[2];
  bool gated = false;
  GateKind kind = GateKind::kSilu;
};

// Pairs of one weight type. The `known` - `count` pairs after them are likely to be the same thread's next ones.
struct Pairs {
  const Pair* first;
  int64_t count;
  int64_t known;
};

// The loops of one instruction set.
struct StripKernels {
  int64_t scratch_bytes;  // that `multiply` needs, 64-byte aligned
  void (*quantise)(const float* x, int64_t row, const QuantisedX& to);
  // All tokens of x (or of `quantised`, for quantised weights) times `pairs`.
  void (*multiply)(DType dtype, const Pairs& pairs, const Tensor& x, const QuantisedX& quantised, std::byte* scratch);
  // gate[i] = act(gate[i]) * up[i]
  void (*gate)(GateKind kind, float* gate, const float* up, int64_t count);
};

void RunLinear(const LinearArgs& args, const StripKernels& kernels, OpContext on);
void RunGatedLinear(const GatedLinearArgs& args, const StripKernels& kernels, OpContext on);
void RunGate(const GateArgs& args, const StripKernels& kernels, OpContext on);

}  // namespace interlace::strips
