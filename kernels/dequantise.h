// Weights to F32, element by element. Every variant of every op produces exactly these values: a product of an 11-bit
// scale and an 8-bit quantum is exact in F32, and so is one of two scales (f16 x 6 or 8 bits); the order of operations
// in the source is the definition where more than one rounds.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace interlace {

float F16ToF32(uint16_t bits);
float BF16ToF32(uint16_t bits);
// To the nearest F16, ties to even; overflow gives infinity, a NaN stays a quiet NaN.
uint16_t F32ToF16(float value);
// As F32ToF16, to BF16.
uint16_t F32ToBF16(float value);

// The 6-bit scale and minimum of sub-block `sub` (0..7) in the 12 bytes that Q4_K and Q5_K pack them in.
struct SubScales {
  uint8_t scale, minimum;
};
SubScales SubScalesOfK(const uint8_t* packed, int sub);

// What the 16 codes of IQ4_NL and IQ4_XS, and of MXFP4 (doubled), stand for.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
inline constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
// 2^(exponent - 128): half of what the exponent stands for, since kMxfp4Values are doubled.
float HalfOfE8M0(uint8_t exponent);
// The signed 6-bit scale of sixteen elements `sub` (0..15) in the 12 bytes that Q3_K packs them in.
int ScaleOfQ3_K(const uint8_t* packed, int sub);
// The signed 6-bit scale of sub-block `sub` (0..7) of a block of IQ4_XS.
int ScaleOfIQ4_XS(const uint8_t* block, int sub);

// out: [elements]. Requires: dtype is a float type or a quantised one; elements is a multiple of its block.
void DequantiseRow(DType dtype, const void* row, int64_t elements, float* out);

}  // namespace interlace
