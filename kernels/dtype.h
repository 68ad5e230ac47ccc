// Element and block types of tensors.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace interlace {

// Quantised types are rows of blocks of 32 elements, in GGUF's byte layout.
enum class DType : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kI32 };

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
