// Tensor: a non-owning view of contiguous row-major memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype.h"

namespace interlace {

// [rows, cols]; a vector has one row. Copied freely. The trap: it does not own, the Backend's Buffer does.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;

  float* f32() const { return static_cast<float*>(data); }
  float* f32_row(int64_t row) const { return f32() + row * cols; }
  int64_t bytes() const { return rows * RowBytes(dtype, cols); }
  // Rows [begin, begin + count).
  Tensor Rows(int64_t begin, int64_t count) const {
    return {static_cast<std::byte*>(data) + begin * RowBytes(dtype, cols), dtype, count, cols};
  }
};

}  // namespace interlace
