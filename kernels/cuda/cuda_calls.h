// The values of driver calls: kernels, grids, products. No abseil: device code includes it.
#pragma once

#include <cstdint>

namespace interlace {

// Every kernel of the backend; kernels/cuda/kernel_list.h says which body and which parameters belong to it.
enum class CudaKernel : uint8_t {
  kEmbedding,
  kRmsNorm,
  kRope,
  kToBf16,
  kAddBias,
  kGate,
  kKvAppend,
  kPagedAttention,
  kResidualAdd,
  kSoftCap,
};
inline constexpr int kCudaKernels = 10;
// Threads of a block of every kernel. A power of two.
inline constexpr int kCudaThreads = 128;

struct CudaGrid {
  int64_t x = 1;  // blocks; at most 2^31 - 1
  int64_t y = 1;  // at most 65535
};

// d[n, m] = x[n, k] . w[m, k]^T, plus d where accumulate: row-major, x and w BF16 with rows of ldk elements, d F32 with
// rows of m, sums in F32.
struct CudaGemm {
  int64_t m = 0, n = 0, k = 0;
  int64_t ldk = 0;  // >= k, a multiple of 8
  const void* w = nullptr;
  const void* x = nullptr;
  float* d = nullptr;
  bool accumulate = false;
};

}  // namespace interlace
