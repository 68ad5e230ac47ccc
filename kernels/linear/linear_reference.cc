#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/variants.h"
#include "kernels/dequantise.h"

namespace interlace::reference {
namespace {

const std::byte* RowOf(const LinearWeight& w, int64_t row) { return w.data + row * RowBytes(w.dtype, w.k); }

float Dot(const float* x, const std::vector<float>& w) {
  float sum = 0;
  for (size_t i = 0; i < w.size(); ++i) sum += x[i] * w[i];
  return sum;
}

void Multiply(const Tensor& x, const LinearOut& out) {
  std::vector<float> w(out.w.k);
  for (int64_t r = 0; r < out.w.rows; ++r) {
    DequantiseRow(out.w.dtype, RowOf(out.w, r), out.w.k, w.data());
    for (int64_t t = 0; t < x.rows; ++t) {
      float sum = Dot(x.f32_row(t), w);
      if (out.bias != nullptr) sum += out.bias[r];
      float& y = out.y.f32_row(t)[r];
      y = out.accumulate ? y + sum : sum;
    }
  }
}

float Activate(GateKind kind, float v) {
  if (kind == GateKind::kSilu) return v / (1 + std::exp(-v));
  return 0.5f * v * (1 + std::tanh(0.7978845608028654f * (v + 0.044715f * v * v * v)));
}

}  // namespace

// Rows stay as the file has them.
int64_t WeightBytes(DType /*dtype*/, int64_t /*rows*/, int64_t /*k*/) { return 0; }
void PackWeight(const Tensor& rows, std::byte* out, OpContext /*on*/) { std::memcpy(out, rows.data, rows.bytes()); }

void Linear(const LinearArgs& args, OpContext /*on*/) {
  for (const LinearOut& out : args.outs) Multiply(args.x, out);
}

void GatedLinear(const GatedLinearArgs& args, OpContext /*on*/) {
  std::vector<float> gate(args.gate.k), up(args.up.k);
  for (int64_t r = 0; r < args.gate.rows; ++r) {
    DequantiseRow(args.gate.dtype, RowOf(args.gate, r), args.gate.k, gate.data());
    DequantiseRow(args.up.dtype, RowOf(args.up, r), args.up.k, up.data());
    for (int64_t t = 0; t < args.x.rows; ++t) {
      const float* x = args.x.f32_row(t);
      args.out.f32_row(t)[r] = Activate(args.kind, Dot(x, gate)) * Dot(x, up);
    }
  }
}

void Gate(const GateArgs& args, OpContext /*on*/) {
  for (int64_t i = 0; i < args.gate.rows * args.gate.cols; ++i) {
    float& gate = args.gate.f32()[i];
    gate = Activate(args.kind, gate) * args.up.f32()[i];
  }
}

}  // namespace interlace::reference
