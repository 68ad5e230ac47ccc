// Memory between two runs of guard bytes: an overrun is seen by Intact(), an unwritten output by its filling.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/tensor.h"

namespace interlace {

// An F32 tensor at an address that is a multiple of 4 bytes and of no more, so that aligned accesses are found out.
class GuardedTensor {
 public:
  GuardedTensor(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), bytes_(kGuard + rows * cols * int64_t{sizeof(float)} + kGuard, kFilling) {
    start_ = kGuard / 2;
    while (reinterpret_cast<uintptr_t>(&bytes_[start_]) % 32 != 4) ++start_;
  }
  GuardedTensor(int64_t rows, int64_t cols, const std::vector<float>& values) : GuardedTensor(rows, cols) {
    std::copy(values.begin(), values.end(), tensor().f32());
  }
  GuardedTensor(const GuardedTensor&) = delete;
  GuardedTensor& operator=(const GuardedTensor&) = delete;

  Tensor tensor() { return {&bytes_[start_], DType::kF32, rows_, cols_}; }
  std::vector<float> values() { return {tensor().f32(), tensor().f32() + rows_ * cols_}; }
  bool Intact() const {
    const int64_t end = start_ + rows_ * cols_ * int64_t{sizeof(float)};
    for (int64_t i = 0; i < static_cast<int64_t>(bytes_.size()); ++i) {
      if ((i < start_ || i >= end) && bytes_[i] != kFilling) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 256;
  static constexpr uint8_t kFilling = 0xA5;
  int64_t rows_;
  int64_t cols_;
  std::vector<uint8_t> bytes_;
  int64_t start_;
};

}  // namespace interlace
