// Weights to F32, element by element. Every variant of every op produces exactly these values: a product of an 11-bit
// scale and an 8-bit quantum is exact in F32, so there is one rounding at most (the sum in Q4_1) whatever the code.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace interlace {

float F16ToF32(uint16_t bits);
float BF16ToF32(uint16_t bits);
// To the nearest F16, ties to even; overflow gives infinity, a NaN stays a quiet NaN.
uint16_t F32ToF16(float value);

// out: [elements]. Requires: dtype is a float type or a quantised one; elements is a multiple of its block.
void DequantiseRow(DType dtype, const void* row, int64_t elements, float* out);

}  // namespace interlace
