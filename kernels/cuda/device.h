// What kernel bodies are written in, so that one source runs on the device and, in tests, on the host.
//
// A body is `template <class Block> INTERLACE_DEVICE void XBlock(const XParams& p, Block& block)`: the work of one
// block. It speaks to its threads through the block alone:
//
//   block.x(), block.y()    which block of the grid
//   block.shared()          kCudaSharedFloats floats, shared by the block's threads
//   block.For(n, f)         f(i) for each i in [0, n), spread over the threads; all are done when it returns
//   block.Sum<T>(n, f)      sum of f(i) over [0, n), the same for every thread: thread t adds i = t, t + kCudaThreads,
//   ...
//                           in order, then the threads' sums are added as a tree; T float or double
//   block.Max(n, f)         the largest f(i), NaN left out; -inf if there is none
//
// The trap: code outside For, Sum and Max runs once in each thread: it may compute, but must write nothing but its own
// locals, and all threads must take the same path through it.
#pragma once

#include <cstdint>
#include <limits>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define INTERLACE_DEVICE __device__ __forceinline__
#else
#include <bit>
#include <cmath>

#include "kernels/dequantise.h"
#define INTERLACE_DEVICE inline
#endif

namespace interlace::cuda {

inline constexpr int kCudaSharedFloats = 3072;

#ifdef __CUDACC__

INTERLACE_DEVICE float FromBf16(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
INTERLACE_DEVICE float FromF16(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
INTERLACE_DEVICE uint16_t ToF16(float value) { return __half_as_ushort(__float2half_rn(value)); }
INTERLACE_DEVICE uint32_t BitsOf(float value) { return __float_as_uint(value); }

#else

INTERLACE_DEVICE float FromBf16(uint16_t bits) { return BF16ToF32(bits); }
INTERLACE_DEVICE float FromF16(uint16_t bits) { return F16ToF32(bits); }
INTERLACE_DEVICE uint16_t ToF16(float value) { return F32ToF16(value); }
INTERLACE_DEVICE uint32_t BitsOf(float value) { return std::bit_cast<uint32_t>(value); }

#endif

// To the nearest BF16, ties to even; overflow gives infinity, a NaN stays a quiet NaN.
INTERLACE_DEVICE uint16_t ToBf16(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#ifdef __CUDACC__
INTERLACE_DEVICE float MinusInfinity() { return __uint_as_float(0xff800000u); }
#else
INTERLACE_DEVICE float MinusInfinity() { return -std::numeric_limits<float>::infinity(); }
#endif

}  // namespace interlace::cuda
