// linear: y[t, r] = sum over k of x[t, k] * w[r, k], plus bias[r], plus y[t, r] when accumulate.
//
// Weights are packed once, at load, into the layout of the op table that will use them (OpTable::pack_weight). Sums are
// F32 and run over k in one fixed order, whatever the number of tokens. Where the weights are quantised, the vector
// tables quantise x to 8 bits, one F32 scale and one zero point per 32 elements; a row
// of x is quantised from that row alone. `reference` computes on dequantised weights and F32 x.
#pragma once

#include <cstddef>

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace interlace {

// A matrix in a table's layout. The memory belongs to whoever packed it (WeightReader's owner), or is the file's own.
struct LinearWeight {
  DType dtype = DType::kF32;  // as in the file
  int64_t rows = 0;           // outputs
  int64_t k = 0;
  const std::byte* data = nullptr;
};

// One product of a call. All products of a call share x and run in one parallel region.
struct LinearOut {
  Tensor y;  // F32 [tokens, w.rows]; never aliases x
  LinearWeight w;
  const float* bias = nullptr;  // [w.rows]
  bool accumulate = false;      // residual add
};
struct LinearArgs {
  Tensor x;                          // F32 [tokens, k]
  absl::Span<const LinearOut> outs;  // a braced list lives until the call returns
};

// gated_linear: out[t, r] = act(x . gate[r]) * (x . up[r]), in one region; act is SiLU or GELU (tanh form).
// Sources: Shazeer, "GLU Variants Improve Transformer", 2020; Hendrycks, Gimpel, "GELU", 2016.
enum class GateKind : uint8_t { kSilu, kGeluTanh };
struct GatedLinearArgs {
  Tensor out;  // F32 [tokens, gate.rows]; never aliases x
  Tensor x;    // F32 [tokens, k]
  LinearWeight gate, up;
  GateKind kind = GateKind::kSilu;
};

// gate: gate[t, r] = act(gate[t, r]) * up[t, r]. So gated_linear may be taken in parts, where something is added to its
// products (LoRA): linear to two outputs, then gate, is gated_linear to the bit.
struct GateArgs {
  Tensor gate;  // F32 [tokens, rows], in place
  Tensor up;    // F32 [tokens, rows]
  GateKind kind = GateKind::kSilu;
};

inline constexpr double kLinearTolerance = 1e-6;  // relative to sum(|x| * |w|): float weights, summation order differs
inline constexpr double kLinearInt8Tolerance = 5e-3;  // the same, where x is quantised: half a step of 1/127 of the
                                                      // largest of 32, at worst

}  // namespace interlace
