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

// Bit i of the 32 high bits belongs to element i.
void DecodeQ5_0(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block));
  const auto high = Load<uint32_t>(block + 2);
  for (int i = 0; i < kHalf; ++i) {
    const int byte = block[6 + i];
    const int first = (byte & 15) | static_cast<int>((high >> i & 1) << 4);
    const int second = (byte >> 4) | static_cast<int>((high >> (i + kHalf) & 1) << 4);
    out[i] = scale * static_cast<float>(first - 16);
    out[i + kHalf] = scale * static_cast<float>(second - 16);
  }
}

void DecodeQ5_1(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block));
  const float minimum = F16ToF32(Load<uint16_t>(block + 2));
  const auto high = Load<uint32_t>(block + 4);
  for (int i = 0; i < kHalf; ++i) {
    const int byte = block[8 + i];
    const int first = (byte & 15) | static_cast<int>((high >> i & 1) << 4);
    const int second = (byte >> 4) | static_cast<int>((high >> (i + kHalf) & 1) << 4);
    out[i] = scale * static_cast<float>(first) + minimum;
    out[i + kHalf] = scale * static_cast<float>(second) + minimum;
  }
}

// Elements come in four stretches of 64: the low halves of 32 bytes, then their high halves.
void DecodeQ4_K(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block));
  const float minimum = F16ToF32(Load<uint16_t>(block + 2));
  for (int sub = 0; sub < 8; ++sub) {
    const SubScales of = SubScalesOfK(block + 4, sub);
    const float d = scale * static_cast<float>(of.scale), m = minimum * static_cast<float>(of.minimum);
    const uint8_t* bytes = block + 16 + 32 * (sub / 2);
    for (int i = 0; i < kBlock; ++i) {
      const int q = sub % 2 == 0 ? bytes[i] & 15 : bytes[i] >> 4;
      out[kBlock * sub + i] = d * static_cast<float>(q) - m;
    }
  }
}

// As Q4_K; bit `sub` of high byte i is the fifth bit of element i of sub-block `sub`.
void DecodeQ5_K(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block));
  const float minimum = F16ToF32(Load<uint16_t>(block + 2));
  const uint8_t* high = block + 16;
  for (int sub = 0; sub < 8; ++sub) {
    const SubScales of = SubScalesOfK(block + 4, sub);
    const float d = scale * static_cast<float>(of.scale), m = minimum * static_cast<float>(of.minimum);
    const uint8_t* bytes = block + 48 + 32 * (sub / 2);
    for (int i = 0; i < kBlock; ++i) {
      const int low = sub % 2 == 0 ? bytes[i] & 15 : bytes[i] >> 4;
      const int q = low | (high[i] >> sub & 1) << 4;
      out[kBlock * sub + i] = d * static_cast<float>(q) - m;
    }
  }
}

// Two stretches of 128: 64 bytes of low halves, 32 bytes of four pairs of high bits; one scale per 16 elements.
void DecodeQ6_K(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block + 208));
  const auto* scales = reinterpret_cast<const int8_t*>(block + 192);
  for (int e = 0; e < 256; ++e) {
    const int part = e / 128, quarter = e % 128 / 32, i = e % 32;
    const int low_byte = block[64 * part + 32 * (quarter % 2) + i];
    const int low = quarter < 2 ? low_byte & 15 : low_byte >> 4;
    const int high = block[128 + 32 * part + i] >> (2 * quarter) & 3;
    out[e] = scale * static_cast<float>(scales[e / 16]) * static_cast<float>((low | high << 4) - 32);
  }
}

void DecodeNibbles(const uint8_t* bytes, float scale, const int8_t (&values)[16], float* out) {
  for (int i = 0; i < kHalf; ++i) {
    out[i] = scale * static_cast<float>(values[bytes[i] & 15]);
    out[i + kHalf] = scale * static_cast<float>(values[bytes[i] >> 4]);
  }
}
void DecodeIQ4_NL(const uint8_t* block, float* out) {
  DecodeNibbles(block + 2, F16ToF32(Load<uint16_t>(block)), kIq4Values, out);
}
void DecodeMXFP4(const uint8_t* block, float* out) {
  DecodeNibbles(block + 1, HalfOfE8M0(block[0]), kMxfp4Values, out);
}
void DecodeIQ4_XS(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block));
  for (int sub = 0; sub < 8; ++sub) {
    const float d = scale * static_cast<float>(ScaleOfIQ4_XS(block, sub));
    DecodeNibbles(block + 8 + kHalf * sub, d, kIq4Values, out + kBlock * sub);
  }
}

// Two stretches of 128, of each of which 32 bytes hold four pairs of low bits; bit e / 32 of high byte e % 32 is the
// third bit; one scale per 16 elements.
void DecodeQ3_K(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block + 108));
  for (int e = 0; e < 256; ++e) {
    const int part = e / 128, quarter = e % 128 / 32, i = e % 32;
    const int low = block[32 + 32 * part + i] >> (2 * quarter) & 3, high = block[i] >> (e / 32) & 1;
    out[e] = scale * static_cast<float>(ScaleOfQ3_K(block + 96, e / 16)) * static_cast<float>((low | high << 2) - 4);
  }
}

// As Q3_K without the high bits; scale and minimum of 16 elements share a byte.
void DecodeQ2_K(const uint8_t* block, float* out) {
  const float scale = F16ToF32(Load<uint16_t>(block + 80)), minimum = F16ToF32(Load<uint16_t>(block + 82));
  for (int e = 0; e < 256; ++e) {
    const int part = e / 128, quarter = e % 128 / 32, both = block[e / 16];
    const int q = block[16 + 32 * part + e % 32] >> (2 * quarter) & 3;
    out[e] = scale * static_cast<float>(both & 15) * static_cast<float>(q) - minimum * static_cast<float>(both >> 4);
  }
}

template <int kElements, int kBytes>
void DecodeBlocks(void (*decode)(const uint8_t*, float*), const uint8_t* bytes, int64_t elements, float* out) {
  for (int64_t i = 0; i < elements / kElements; ++i) decode(bytes + kBytes * i, out + kElements * i);
}

}  // namespace

SubScales SubScalesOfK(const uint8_t* packed, int sub) {
  if (sub < 4) return {static_cast<uint8_t>(packed[sub] & 63), static_cast<uint8_t>(packed[sub + 4] & 63)};
  return {static_cast<uint8_t>((packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4),
          static_cast<uint8_t>((packed[sub + 4] >> 4) | (packed[sub] >> 6) << 4)};
}

float HalfOfE8M0(uint8_t exponent) {
  return std::bit_cast<float>(exponent < 2 ? 0x00200000u << exponent : (uint32_t{exponent} - 1) << 23);
}

int ScaleOfQ3_K(const uint8_t* packed, int sub) {
  const int low = sub < 8 ? packed[sub] & 15 : packed[sub - 8] >> 4;
  return (low | (packed[8 + sub % 4] >> (2 * (sub / 4)) & 3) << 4) - 32;
}

int ScaleOfIQ4_XS(const uint8_t* block, int sub) {
  const int low = block[4 + sub / 2] >> (4 * (sub % 2)) & 15;
  return (low | (Load<uint16_t>(block + 2) >> (2 * sub) & 3) << 4) - 32;
}

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

uint16_t F32ToBF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
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
      return DecodeBlocks<32, 34>(&DecodeQ8_0, bytes, elements, out);
    case DType::kQ4_0:
      return DecodeBlocks<32, 18>(&DecodeQ4_0, bytes, elements, out);
    case DType::kQ4_1:
      return DecodeBlocks<32, 20>(&DecodeQ4_1, bytes, elements, out);
    case DType::kQ5_0:
      return DecodeBlocks<32, 22>(&DecodeQ5_0, bytes, elements, out);
    case DType::kQ5_1:
      return DecodeBlocks<32, 24>(&DecodeQ5_1, bytes, elements, out);
    case DType::kQ4_K:
      return DecodeBlocks<256, 144>(&DecodeQ4_K, bytes, elements, out);
    case DType::kQ5_K:
      return DecodeBlocks<256, 176>(&DecodeQ5_K, bytes, elements, out);
    case DType::kQ6_K:
      return DecodeBlocks<256, 210>(&DecodeQ6_K, bytes, elements, out);
    case DType::kIQ4_NL:
      return DecodeBlocks<32, 18>(&DecodeIQ4_NL, bytes, elements, out);
    case DType::kIQ4_XS:
      return DecodeBlocks<256, 136>(&DecodeIQ4_XS, bytes, elements, out);
    case DType::kMXFP4:
      return DecodeBlocks<32, 17>(&DecodeMXFP4, bytes, elements, out);
    case DType::kQ3_K:
      return DecodeBlocks<256, 110>(&DecodeQ3_K, bytes, elements, out);
    case DType::kQ2_K:
      return DecodeBlocks<256, 84>(&DecodeQ2_K, bytes, elements, out);
    case DType::kI8:
    case DType::kI32:
      break;
  }
  CHECK_MSG(false, "not a weight type");
}

}  // namespace interlace
