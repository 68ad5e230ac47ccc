// moe_route: chooses each token's experts. moe_ffn: runs them.
//
// Sources: Shazeer et al., "Outrageously Large Neural Networks", 2017; Jiang et al., "Mixtral of Experts", 2024; Qwen
// team, "Qwen1.5-MoE", 2024 (the shared expert and its gate).
#pragma once

#include "absl/types/span.h"
#include "kernels/linear/linear.h"
#include "kernels/tensor.h"

namespace interlace {

// probabilities = softmax(logits[t, :]); a token's first top_k slots are its most probable experts, the most probable
// first, ties by lower id, and weigh their probabilities; these are divided by their sum when `normalise`. With shared
// logits a token has one slot more: expert logits.cols, weight sigmoid(shared[t]).
struct MoeRouteArgs {
  Tensor weights;               // out, F32 [tokens, slots]
  absl::Span<int32_t> experts;  // out, [tokens, slots]
  Tensor logits;                // F32 [tokens, experts]
  Tensor shared;                // F32 [tokens, 1]; no data: there is no shared expert
  int32_t top_k = 0;            // 1 .. experts
  bool normalise = false;
  float scale = 1;  // of all weights, last: Granite's residual multiplier
};

// The matrices of one expert; experts of one layer may differ in gate.rows. No data: another rank has it.
struct ExpertWeight {
  LinearWeight gate, up;  // [feed_forward, width]
  LinearWeight down;      // [width, feed_forward]
};

// out[t, :] += sum over slots s, in their order, of weights[t, s] * down(act(gate . x[t]) * (up . x[t])) of expert
// experts[t, s]. Experts that another rank has add nothing. The rows of one expert run together.
struct MoeFfnArgs {
  Tensor out;                         // F32 [tokens, width]
  Tensor x;                           // F32 [tokens, width]; never aliases out
  Tensor weights;                     // F32 [tokens, slots]
  absl::Span<const int32_t> experts;  // [tokens, slots], each in [0, table.size())
  absl::Span<const ExpertWeight> table;
  GateKind kind = GateKind::kSilu;
  // Scratch of tokens * slots rows: [width], [the largest gate.rows], [width].
  Tensor gathered, gated, products;
};
inline constexpr double kMoeRouteTolerance = 1e-6;
inline constexpr double kMoeFfnTolerance = 1e-5;  // relative to the largest output: float weights

}  // namespace interlace
