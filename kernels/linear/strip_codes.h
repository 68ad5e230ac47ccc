// How each quantised weight type's block of a strip is loaded into registers. Included by strip_tiles.h alone;
// everything has internal linkage.
#pragma once

#include "kernels/dequantise.h"
#include "kernels/linear/weight_strips.h"

namespace interlace::strips {
namespace {

constexpr int kVectors = 8;  // of codes in a block

// What the loops must know of a weight type; its layout is LayoutOf(kType).
template <DType kType>
struct WeightType {
  static constexpr Layout kLayout = LayoutOf(kType);
  static constexpr bool kExponents = kType == DType::kMXFP4;  // in the place of scales
  // Codes are numbers of entries in a table of signed bytes.
  static constexpr bool kTable = kExponents || kType == DType::kIQ4_NL || kType == DType::kIQ4_XS;
  static constexpr const int8_t (&kValues)[16] = kExponents ? kMxfp4Values : kIq4Values;
  static constexpr bool kWide = kTable || kType == DType::kQ8_0;  // codes are signed bytes, once looked up
  static constexpr bool kSignedScales = kType == DType::kQ6_K || kType == DType::kQ3_K || kType == DType::kIQ4_XS;
  // Scales of a block.
  static constexpr int kSubs = kType == DType::kQ6_K || kType == DType::kQ3_K || kType == DType::kQ2_K ? 2 : 1;
  static constexpr bool kMinimum = kType == DType::kQ4_1 || kType == DType::kQ5_1 || kType == DType::kQ4_K ||
                                   kType == DType::kQ5_K || kType == DType::kQ2_K;
  // How far codes are above their values.
  static constexpr int kOffset = kType == DType::kQ4_0   ? 8
                                 : kType == DType::kQ5_0 ? 16
                                 : kType == DType::kQ6_K ? 32
                                 : kType == DType::kQ3_K ? 4
                                                         : 0;
};

// One block of a strip in registers.
template <typename Isa, typename W>
struct Codes {
  typename Isa::I q[kVectors];
  typename Isa::F d[W::kSubs];
  typename Isa::F m[W::kSubs];  // where there is a minimum
};

template <typename Isa, typename W>
[[gnu::always_inline]] inline void LoadScales(const uint8_t* scales, const uint8_t* supers, Codes<Isa, W>* to) {
  if constexpr (W::kSignedScales) {
    const typename Isa::F d = Isa::FromF16(supers);
#pragma GCC unroll 2
    for (int i = 0; i < W::kSubs; ++i) to->d[i] = Isa::Mul(d, Isa::FromI8(scales + kRows * i));
  } else if constexpr (W::kLayout.supers > 0) {
    const typename Isa::F d = Isa::FromF16(supers), m = Isa::FromF16(supers + 2 * kRows);
#pragma GCC unroll 2
    for (int i = 0; i < W::kSubs; ++i) {
      to->d[i] = Isa::Mul(d, Isa::FromU8(scales + kRows * i));
      to->m[i] = Isa::Negate(Isa::Mul(m, Isa::FromU8(scales + kRows * (W::kSubs + i))));
    }
  } else if constexpr (W::kExponents) {
    to->d[0] = Isa::HalfOfE8M0(scales);
  } else {
    to->d[0] = Isa::FromF16(scales);
    if constexpr (W::kMinimum) to->m[0] = Isa::FromF16(scales + 2 * kRows);
  }
}

// Block b of a strip.
template <typename Isa, typename W>
[[gnu::always_inline]] inline void LoadBlock(const uint8_t* strip, int64_t b, Codes<Isa, W>* to) {
  const uint8_t *codes = strip + W::kLayout.codes_at(b), *high = strip + W::kLayout.high_at(b);
  if constexpr (W::kLayout.codes == 512) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) to->q[j] = Isa::LoadBytes(codes + 64 * j);
  } else if constexpr (W::kLayout.codes == 256) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) Isa::SplitNibbles(codes + 64 * j, &to->q[j], &to->q[j + 4]);
  } else {
#pragma GCC unroll 2
    for (int a = 0; a < 2; ++a) Isa::SplitCrumbs(codes + 64 * a, to->q + 4 * a);
  }
  if constexpr (W::kTable) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) to->q[j] = Isa::Look(W::kValues, to->q[j]);
  }
  if constexpr (W::kLayout.high == 64) {
    constexpr int kBit = W::kLayout.codes == 128 ? 2 : 4;
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) to->q[j] = Isa::template AddBit<kBit>(to->q[j], high + 8 * j);
  } else if constexpr (W::kLayout.high == 128) {
#pragma GCC unroll 2
    for (int a = 0; a < 2; ++a) Isa::AddBits45(high + 64 * a, to->q + 4 * a);
  }
  LoadScales(strip + W::kLayout.scales_at(b), strip + W::kLayout.supers_at(b), to);
}

// What a block's products begin with, as 16-bit factors of QuantisedX::start: the sum of (code - offset) in the low
// half of each lane, the offset in the high one.
template <typename Isa, typename W>
[[gnu::always_inline]] inline void StartFactors(const Codes<Isa, W>& codes, typename Isa::I factors[W::kSubs]) {
  constexpr int kEach = kVectors / W::kSubs;
#pragma GCC unroll 2
  for (int i = 0; i < W::kSubs; ++i) {
    const typename Isa::I sum = Isa::template SumBytes<W::kWide, kEach>(codes.q + i * kEach);
    factors[i] = Isa::PairWords(sum, 4 * kEach * W::kOffset, W::kOffset);
  }
}

}  // namespace
}  // namespace interlace::strips
