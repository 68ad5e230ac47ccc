// Element and block types of tensors.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace interlace {

// Quantised types are rows of blocks of 32 or 256 elements, in GGUF's byte layout.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kI8,  // of the KV cache: with scales beside it
  kI32,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
  kQ3_K,
  kQ2_K,
};

struct DTypeTraits {
  absl::string_view name;
  int32_t block_elements;
  int32_t block_bytes;
};
constexpr DTypeTraits TraitsOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {"F32", 1, 4};
    case DType::kF16:
      return {"F16", 1, 2};
    case DType::kBF16:
      return {"BF16", 1, 2};
    case DType::kQ8_0:
      return {"Q8_0", 32, 34};  // f16 scale, 32 x int8
    case DType::kQ4_0:
      return {"Q4_0", 32, 18};  // f16 scale, 32 x 4 bits; value = scale * (q - 8)
    case DType::kQ4_1:
      return {"Q4_1", 32, 20};  // f16 scale, f16 minimum, 32 x 4 bits; value = scale * q + minimum
    case DType::kQ5_0:
      return {"Q5_0", 32, 22};  // f16 scale, 32 high bits, 32 x 4 bits; value = scale * (q - 16)
    case DType::kQ5_1:
      return {"Q5_1", 32, 24};  // f16 scale, f16 minimum, 32 high bits, 32 x 4 bits; value = scale * q + minimum
    case DType::kQ4_K:
      return {"Q4_K", 256, 144};  // f16 scale and minimum of 8 pairs of 6 bits (12 bytes), 256 x 4 bits
    case DType::kQ5_K:
      return {"Q5_K", 256, 176};  // as Q4_K, with 256 high bits between
    case DType::kQ6_K:
      return {"Q6_K", 256, 210};  // 256 x 4 low bits, 256 x 2 high bits, 16 x int8 scales, f16 scale
    case DType::kIQ4_NL:
      return {"IQ4_NL", 32, 18};  // f16 scale, 32 x 4 bits; value = scale * kIq4Values[q]
    case DType::kIQ4_XS:
      return {"IQ4_XS", 256, 136};  // f16 scale, 8 x 6 bits of signed scales, 256 x 4 bits; values as IQ4_NL
    case DType::kMXFP4:
      return {"MXFP4", 32, 17};  // exponent, 32 x 4 bits; value = 2^(exponent - 128) * kMxfp4Values[q]
    case DType::kQ3_K:
      return {"Q3_K", 256, 110};  // 256 high bits, 256 x 2 bits, 16 x 6 bits of signed scales, f16 scale
    case DType::kQ2_K:
      return {"Q2_K", 256, 84};  // 16 pairs of 4 bits of scale and minimum, 256 x 2 bits, f16 scale and minimum
    case DType::kI8:
      return {"I8", 1, 1};
    case DType::kI32:
      return {"I32", 1, 4};
  }
  return {"?", 1, 0};
}

// Bytes of a contiguous row. Requires: elements is a multiple of the block.
constexpr int64_t RowBytes(DType dtype, int64_t elements) {
  return elements / TraitsOf(dtype).block_elements * TraitsOf(dtype).block_bytes;
}

}  // namespace interlace
