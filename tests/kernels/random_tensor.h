// Seeded random numbers and weights for kernel tests and benches.
#pragma once

#include <cmath>
#include <cstring>
#include <iterator>
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

inline constexpr DType kWeightTypes[] = {DType::kF32,    DType::kF16,   DType::kBF16, DType::kQ8_0,
                                         DType::kQ4_0,   DType::kQ4_1,  DType::kQ5_0, DType::kQ5_1,
                                         DType::kQ4_K,   DType::kQ5_K,  DType::kQ6_K, DType::kIQ4_NL,
                                         DType::kIQ4_XS, DType::kMXFP4, DType::kQ3_K, DType::kQ2_K};
inline DType AnyWeightType(Random& random) { return kWeightTypes[random.Below(std::size(kWeightTypes))]; }

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
  // Where the F16 scale lies, the largest code (times the largest scale below it), and whether a minimum follows.
  struct Scale {
    size_t at;
    float span;
    bool minimum;
  };
  const Scale of = dtype == DType::kQ8_0     ? Scale{0, 127, false}
                   : dtype == DType::kQ4_0   ? Scale{0, 8, false}
                   : dtype == DType::kQ4_1   ? Scale{0, 15, true}
                   : dtype == DType::kQ5_0   ? Scale{0, 16, false}
                   : dtype == DType::kQ5_1   ? Scale{0, 31, true}
                   : dtype == DType::kQ4_K   ? Scale{0, 15 * 63, true}
                   : dtype == DType::kQ5_K   ? Scale{0, 31 * 63, true}
                   : dtype == DType::kIQ4_NL ? Scale{0, 127, false}
                   : dtype == DType::kIQ4_XS ? Scale{0, 127 * 32, false}
                   : dtype == DType::kQ3_K   ? Scale{108, 4 * 32, false}
                   : dtype == DType::kQ2_K   ? Scale{80, 3 * 15, true}
                                             : Scale{208, 32 * 127, false};
  for (size_t at = 0; at < bytes.size(); at += block) {
    if (dtype == DType::kMXFP4) {  // an exponent: up to 12 * 2^-3
      bytes[at] = static_cast<uint8_t>(random.Between(122, 125));
      continue;
    }
    put16(at + of.at, F32ToF16(random.Uniform(0.2f, 2) / of.span));
    const bool k = TraitsOf(dtype).block_elements == 256;
    if (of.minimum) put16(at + of.at + 2, F32ToF16(k ? random.Uniform(0, 1) / 63 : random.Uniform(-1, 0)));
  }
  return bytes;
}

}  // namespace interlace
