// Seeded random numbers and weights for kernel tests and benches.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "common/entropy.h"
#include "kernels/dequantise.h"
#include "kernels/tensor.h"

namespace interlace {

class Random {
 public:
  explicit Random(uint64_t seed) : entropy_(MakeSeededEntropy(seed)) {}
  uint64_t Next() { return entropy_->Next(); }
  // In [0, n).
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  int64_t Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }
  float Uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(static_cast<double>(Next() >> 11) * 0x1p-53);
  }
  std::vector<float> Floats(int64_t count, float spread = 1) {
    std::vector<float> values(count);
    for (float& value : values) value = Uniform(-spread, spread);
    return values;
  }
  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (int64_t i = static_cast<int64_t>(values.size()) - 1; i > 0; --i) std::swap(values[i], values[Below(i + 1)]);
  }

 private:
  std::unique_ptr<Entropy> entropy_;
};

// Bytes of a weight tensor whose values are of the order of 1. Quanta are random bits; scales differ by block.
inline std::vector<uint8_t> RandomWeights(DType dtype, int64_t rows, int64_t cols, Random& random) {
  std::vector<uint8_t> bytes(rows * RowBytes(dtype, cols));
  const auto put16 = [&](size_t at, uint16_t value) { std::memcpy(&bytes[at], &value, sizeof value); };
  if (TraitsOf(dtype).block_elements == 1) {
    const auto size = static_cast<size_t>(TraitsOf(dtype).block_bytes);
    for (size_t at = 0; at < bytes.size(); at += size) {
      const float value = random.Uniform(-1, 1);
      if (dtype == DType::kF32) std::memcpy(&bytes[at], &value, sizeof value);
      if (dtype == DType::kF16) put16(at, F32ToF16(value));
      if (dtype == DType::kBF16) {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        put16(at, static_cast<uint16_t>(bits >> 16));
      }
    }
    return bytes;
  }
  for (size_t at = 0; at + sizeof(uint64_t) <= bytes.size(); at += sizeof(uint64_t)) {
    const uint64_t word = random.Next();
    std::memcpy(&bytes[at], &word, sizeof word);
  }
  const auto block = static_cast<size_t>(TraitsOf(dtype).block_bytes);
  const float span = dtype == DType::kQ8_0 ? 127 : dtype == DType::kQ4_0 ? 8 : 15;
  for (size_t at = 0; at < bytes.size(); at += block) {
    put16(at, F32ToF16(random.Uniform(0.2f, 2) / span));
    if (dtype == DType::kQ4_1) put16(at + 2, F32ToF16(random.Uniform(-1, 0)));
  }
  return bytes;
}

}  // namespace interlace
