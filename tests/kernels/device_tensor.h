// Memory of a device backend for checks: guard values on both sides, read back after the stream is done.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "tests/kernels/op_checks.h"

namespace interlace {

class DeviceBytes {
 public:
  DeviceBytes(Backend& device, const void* from, int64_t bytes)
      : device_(device), bytes_(bytes), memory_(device.Allocate(bytes + 2 * kGuard).value()) {
    std::memset(memory_->data(), kFilling, bytes + 2 * kGuard);
    if (bytes > 0 && from != nullptr) std::memcpy(data(), from, bytes);
  }
  std::byte* data() { return memory_->data() + kGuard; }
  int64_t bytes() const { return bytes_; }
  // After the stream is done.
  bool Intact() {
    if (!device_.Synchronize().ok()) return false;
    for (int64_t i = 0; i < kGuard; ++i) {
      if (memory_->data()[i] != kFill || memory_->data()[kGuard + bytes_ + i] != kFill) return false;
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 256;
  static constexpr int kFilling = 0xA5;
  static constexpr std::byte kFill{0xA5};
  Backend& device_;
  const int64_t bytes_;
  std::unique_ptr<DeviceBuffer> memory_;
};

class DeviceTensor {
 public:
  DeviceTensor(Backend& device, int64_t rows, int64_t cols)
      : device_(device), rows_(rows), cols_(cols), memory_(device, nullptr, rows * cols * int64_t{sizeof(float)}) {}
  DeviceTensor(Backend& device, int64_t rows, int64_t cols, const std::vector<float>& values)
      : device_(device),
        rows_(rows),
        cols_(cols),
        memory_(device, values.data(), rows * cols * int64_t{sizeof(float)}) {}
  Tensor tensor() { return {memory_.data(), DType::kF32, rows_, cols_}; }
  // After the stream is done.
  std::vector<float> values() {
    (void)device_.Synchronize();
    return {tensor().f32(), tensor().f32() + rows_ * cols_};
  }
  bool Intact() { return memory_.Intact(); }

 private:
  Backend& device_;
  const int64_t rows_, cols_;
  DeviceBytes memory_;
};

// Adds the comparison to the check: NaN where NaN is expected, infinities equal, else within tolerance[i].
inline void Compare(const std::vector<float>& actual, const std::vector<float>& expected,
                    const std::vector<double>& tolerance, OpCheck* check) {
  for (size_t i = 0; i < expected.size() && check->fault.empty(); ++i) {
    const double error = std::abs(double{actual[i]} - expected[i]);
    bool good = false;
    if (std::isnan(expected[i])) {
      good = std::isnan(actual[i]);
    } else if (std::isinf(expected[i])) {
      good = actual[i] == expected[i];
    } else {
      good = error <= tolerance[i];  // false for NaN
      if (tolerance[i] > 0 && error > 0) check->worst = std::max(check->worst, error / tolerance[i]);
    }
    if (!good) check->fault = absl::StrCat("[", i, "] is ", actual[i], ", expected ", expected[i]);
  }
}
inline void Compare(const std::vector<float>& actual, const std::vector<float>& expected, double tolerance,
                    OpCheck* check) {
  Compare(actual, expected, std::vector<double>(expected.size(), tolerance), check);
}
// Faults that any op may have.
inline void Finish(Backend& device, std::initializer_list<DeviceTensor*> tensors, OpCheck* check) {
  if (absl::Status status = device.Synchronize(); !status.ok()) check->fault = status.ToString();
  for (DeviceTensor* tensor : tensors) {
    if (!tensor->Intact() && check->fault.empty()) check->fault = "memory beside the tensor was written";
  }
}

// To the nearest BF16 by arithmetic, so that it shares no line with the backend's rounding.
inline float RoundedToBf16(float value) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent = 0;
  (void)std::frexp(value, &exponent);
  const double step = std::ldexp(1.0, std::max(exponent - 8, -133));
  return static_cast<float>(std::nearbyint(value / step) * step);
}

}  // namespace interlace
