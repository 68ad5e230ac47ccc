// linear, gated_linear and gate: x to BF16, then one product per weight (cuBLASLt on a device).
#include "kernels/linear/linear_cuda.h"

#include <algorithm>

#include "common/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/dequantise.h"

namespace interlace::cuda {
namespace {

constexpr int64_t kAlignment = 256;
int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Scratch for x in BF16, with `beside` bytes after it.
struct HalfX {
  uint16_t* x = nullptr;
  std::byte* beside = nullptr;
};
bool Convert(CudaStream& stream, const Tensor& x, int64_t beside, HalfX* out) {
  const int64_t stride = PaddedK(x.cols);
  const int64_t bytes = RoundUp(x.rows * stride * int64_t{sizeof(uint16_t)});
  std::byte* scratch = nullptr;
  if (!stream.Scratch(bytes + beside, &scratch)) return false;
  *out = {reinterpret_cast<uint16_t*>(scratch), scratch + bytes};
  return stream.Launch(CudaKernel::kToBf16, {x.rows}, ToBf16Params{out->x, x.f32(), x.cols, stride});
}

CudaGemm Product(const LinearWeight& w, const uint16_t* x, int64_t tokens, float* y) {
  return {.m = w.rows, .n = tokens, .k = w.k, .ldk = PaddedK(w.k), .w = w.data, .x = x, .d = y};
}

}  // namespace

void Linear(const LinearArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  HalfX half;
  if (args.x.rows == 0 || !stream.Begin("linear") || !Convert(stream, args.x, 0, &half)) return;
  for (const LinearOut& out : args.outs) {
    CHECK(out.w.k == args.x.cols);
    CudaGemm product = Product(out.w, half.x, args.x.rows, out.y.f32());
    product.accumulate = out.accumulate;
    if (!stream.Gemm(product)) return;
    if (out.bias == nullptr || out.w.rows == 0) continue;
    if (!stream.Launch(CudaKernel::kAddBias, {args.x.rows}, AddBiasParams{out.y.f32(), out.bias, out.w.rows})) return;
  }
}

void GatedLinear(const GatedLinearArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  const int64_t tokens = args.x.rows, rows = args.gate.rows;
  HalfX half;
  if (tokens == 0 || rows == 0 || !stream.Begin("gated_linear")) return;
  CHECK(args.up.rows == rows && args.gate.k == args.x.cols && args.up.k == args.x.cols);
  if (!Convert(stream, args.x, RoundUp(tokens * rows * int64_t{sizeof(float)}), &half)) return;
  auto* gate = reinterpret_cast<float*>(half.beside);
  if (!stream.Gemm(Product(args.gate, half.x, tokens, gate))) return;
  if (!stream.Gemm(Product(args.up, half.x, tokens, args.out.f32()))) return;
  stream.Launch(CudaKernel::kGate, {tokens},
                GateParams{args.out.f32(), gate, args.out.f32(), rows, args.kind == GateKind::kGeluTanh ? 1 : 0});
}

void Gate(const GateArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  if (args.gate.rows == 0 || args.gate.cols == 0 || !stream.Begin("gate")) return;
  stream.Launch(CudaKernel::kGate, {args.gate.rows},
                GateParams{args.gate.f32(), args.gate.f32(), args.up.f32(), args.gate.cols,
                           args.kind == GateKind::kGeluTanh ? 1 : 0});
}

int64_t WeightBytes(DType /*dtype*/, int64_t rows, int64_t k) {
  const int64_t bytes = rows * PaddedK(k) * int64_t{sizeof(uint16_t)};
  return std::max<int64_t>(64, (bytes + 63) / 64 * 64);
}

// Dequantised and rounded on the host, a few rows at a time, so that no page of the weight leaves the device.
void PackWeight(const Tensor& rows, std::byte* out, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  if (!stream.Begin("pack_weight")) return;
  const int64_t stride = PaddedK(rows.cols);
  const int64_t row_bytes = stride * int64_t{sizeof(uint16_t)};
  const int64_t at_once = std::max<int64_t>(1, (int64_t{1} << 20) / std::max<int64_t>(row_bytes, 1));
  std::vector<float> values(rows.cols);
  for (int64_t first = 0; first < rows.rows; first += at_once) {
    const int64_t count = std::min(at_once, rows.rows - first);
    const auto fill = [&](std::byte* to) {
      auto* half = reinterpret_cast<uint16_t*>(to);
      for (int64_t r = 0; r < count; ++r, half += stride) {
        DequantiseRow(rows.dtype, rows.Rows(first + r, 1).data, rows.cols, values.data());
        for (int64_t i = 0; i < stride; ++i) half[i] = i < rows.cols ? ToBf16(values[i]) : uint16_t{0};
      }
    };
    if (!stream.Upload(out + first * row_bytes, count * row_bytes, fill)) return;
  }
}

}  // namespace interlace::cuda
