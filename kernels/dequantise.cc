#include "kernels/dequantise.h"

#include <bit>
#include <cstring>

#include "common/check.h"

namespace interlace {
namespace {

// Blocks are not aligned.
template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

constexpr int kBlock = 32;
constexpr int kHalf = kBlock / 2;

void DecodeQ8_0(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block));
  for (int i = 0; i < kBlock; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// Byte i holds element i in its low half and element i + 16 in its high half.
void DecodeQ4_0(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block));
  for (int i = 0; i < kHalf; ++i) {
    const int byte = block[2 + i];
    out[i] = scale * static_cast<float>((byte & 15) - 8);
    out[i + kHalf] = scale * static_cast<float>((byte >> 4) - 8);
  }
}

void DecodeQ4_1(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block));
  const float minimum = F16ToF32(Load<uint16_t>(block + 2));
  for (int i = 0; i < kHalf; ++i) {
    const int byte = block[4 + i];
    out[i] = scale * static_cast<float>(byte & 15) + minimum;
    out[i + kHalf] = scale * static_cast<float>(byte >> 4) + minimum;
  }
}

}  // namespace

float F16ToF32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31;
  const uint32_t fraction = bits & 0x3ff;
  if (exponent == 0) {  // zero or denormal: fraction * 2^-24, exact
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  if (exponent == 31) {
    const uint32_t quiet = fraction != 0 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | (fraction << 13));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

float BF16ToF32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t F32ToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;  // 2^16 and above, infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: adding 0.5 leaves fraction * 2^-24 in the low bits
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfff + odd) >> 13));
}

void DequantiseRow(DType dtype, const void* row, int64_t elements, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(row);
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, bytes, static_cast<size_t>(elements) * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = F16ToF32(Load<uint16_t>(bytes + 2 * i));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = BF16ToF32(Load<uint16_t>(bytes + 2 * i));
      return;
    case DType::kQ8_0:
      for (int64_t i = 0; i < elements / kBlock; ++i) DecodeQ8_0(bytes + 34 * i, out + kBlock * i);
      return;
    case DType::kQ4_0:
      for (int64_t i = 0; i < elements / kBlock; ++i) DecodeQ4_0(bytes + 18 * i, out + kBlock * i);
      return;
    case DType::kQ4_1:
      for (int64_t i = 0; i < elements / kBlock; ++i) DecodeQ4_1(bytes + 20 * i, out + kBlock * i);
      return;
    case DType::kI32:
      break;
  }
  CHECK_MSG(false, "I32 is not a weight type");
}

}  // namespace interlace
