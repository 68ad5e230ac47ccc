// The layout of packed weights that the avx2 and avx512 tables share: strips of 16 rows.
//
// A strip holds 16 consecutive rows (the last one is filled up with zeros), so that a vector lane is a row and a dot
// product needs no sum over lanes. Quantised strips are cut into blocks of 32 elements of k; these are
// put into groups of 1, 2 or 8, whose bytes are a multiple of 64, so that a strip is read from front to back. The parts
// of a group, one after another:
//
//   codes   256 bytes a block: vector j (0..3), row r, byte c: low half element 4j + c, high half element 16 + 4j + c;
//           Q8_0: 512 bytes, vector j (0..7), row r, byte c: element 4j + c, signed
//           Q2_K, Q3_K: 128 bytes, vector a (0..1), row r, byte c: bits 2f, 2f + 1 are element 16a + 4f + c
//   high    Q5, Q3_K: 64 bytes: bit 4r + c of 64-bit word j (0..7) is the fifth (third) bit of element 4j + c
//           Q6: 128 bytes: vector a (0..1), row r, byte c: bits 2f, 2f + 1 are the high bits of element 16a + 4f + c
//   scales  F16 [16] a block, and where the type has minima, F16 [16] more; Q4_K, Q5_K: uint8 [16] scales and [16]
//           minima; Q6_K, Q3_K: int8 [16] of elements 0..15 and [16] of 16..31; Q2_K: uint8 [16] and [16] scales, then
//           minima, of the same; IQ4_XS: int8 [16]; MXFP4: exponents, uint8 [16]
//   supers  Q4_K, Q5_K, Q2_K: F16 [16] scales and [16] minima per 256 elements; Q6_K, Q3_K, IQ4_XS: F16 [16]
//
// Strips of F32, F16 and BF16 are [k][16].
#pragma once

#include <cstdint>

#include "kernels/embedding/embedding.h"
#include "kernels/linear/linear.h"
#include "kernels/op_context.h"

namespace interlace::strips {

inline constexpr int64_t kRows = 16;
inline constexpr int64_t kBlock = 32;

// Bytes of one block in each part (supers: of a group), and blocks in a group. All zero for float types.
struct Layout {
  int64_t group = 1;
  int64_t codes = 0, high = 0, scales = 0, supers = 0;
  constexpr int64_t group_bytes() const { return (group * (codes + high + scales) + supers + 63) / 64 * 64; }
  // Where the parts of block b begin in its strip.
  constexpr int64_t codes_at(int64_t b) const { return b / group * group_bytes() + b % group * codes; }
  constexpr int64_t high_at(int64_t b) const { return b / group * group_bytes() + group * codes + b % group * high; }
  constexpr int64_t scales_at(int64_t b) const {
    return b / group * group_bytes() + group * (codes + high) + b % group * scales;
  }
  constexpr int64_t supers_at(int64_t b) const { return b / group * group_bytes() + group * (codes + high + scales); }
};
constexpr Layout LayoutOf(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return {2, 512, 0, 32, 0};
    case DType::kQ4_0:
      return {2, 256, 0, 32, 0};
    case DType::kQ4_1:
      return {1, 256, 0, 64, 0};
    case DType::kQ5_0:
      return {2, 256, 64, 32, 0};
    case DType::kQ5_1:
      return {1, 256, 64, 64, 0};
    case DType::kQ4_K:
      return {8, 256, 0, 32, 64};
    case DType::kQ5_K:
      return {8, 256, 64, 32, 64};
    case DType::kQ6_K:
      return {8, 256, 128, 32, 32};
    case DType::kIQ4_NL:
      return {2, 256, 0, 32, 0};
    case DType::kIQ4_XS:
      return {8, 256, 0, 16, 32};
    case DType::kMXFP4:
      return {4, 256, 0, 16, 0};
    case DType::kQ3_K:
      return {8, 128, 64, 32, 32};
    case DType::kQ2_K:
      return {8, 128, 0, 64, 64};
    default:
      return {};
  }
}
int64_t StripBytes(DType dtype, int64_t k);

// OpTable::weight_bytes and OpTable::pack_weight; pack takes only types that DequantiseRow does.
int64_t WeightBytes(DType dtype, int64_t rows, int64_t k);
void PackWeight(const Tensor& rows, std::byte* out, OpContext on);

// Row `row` as DequantiseRow gives it, bit for bit. out: [k].
void UnpackRow(const LinearWeight& w, int64_t row, float* out);
void Embedding(const EmbeddingArgs& args, OpContext on);

}  // namespace interlace::strips
