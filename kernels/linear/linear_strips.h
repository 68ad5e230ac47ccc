// linear and gated_linear over strips (weight_strips.h), written once for the avx2 and the avx512 table. Included by
// linear_avx2.cc and linear_avx512.cc alone; everything has internal linkage. `Isa` names their vectors of 16 lanes.
//
// The sum of a row, whatever the number of tokens, tiles or threads:
//   quantised: blocks of 32 in ascending order; the products p = sum((c - offset) * (q - z)) of a block (Q6_K, Q3_K,
//   Q2_K:
//     of each half; where codes name values of a table, c is the value) are exact integers, then u = float(p) * d_w,
//     where there is a minimum u = fma(m_w, sum(q - z), u), and a = fma(u, d_x, a). x is quantised per row and block,
//     to 8 bits with a zero point: low = min(x, 0), high = max(x, 0), d_x = (high - low) / 254, z = 1 + nearest(-low /
//     d_x), q = nearest(x / d_x) + z in [1, 255]. Half the error of a symmetric scale, where a block's outlier has one
//     sign. A block that holds NaN or infinity makes d_x NaN.
//   float: a takes the even elements of k, b the odd ones, each by one fused multiply-add; the sum is a + b.
// So avx2 and avx512 give the same bits, too.
#pragma once

#include <string.h>

#include "common/check.h"
#include "kernels/linear/strip_tiles.h"

namespace interlace::strips {
namespace {

template <typename Isa>
void QuantiseRow(const float* x, int64_t row, const QuantisedX& to) {
  for (int64_t b = 0; b < to.blocks; ++b) {
    const int64_t at = row * to.blocks + b;
    const auto [low, high, finite] = Isa::RangeOf32(x + b * kBlock);
    const float range = high - low;
    float d = range / 254.0f, inverse = 254.0f / range;
    if (!(range >= 0x1p-100f)) d = inverse = 0;
    if (!finite || !(range < __builtin_inff())) {
      d = __builtin_nanf("");
      inverse = 0;
    }
    const int32_t zero = 1 + (finite ? static_cast<int32_t>(__builtin_nearbyintf(-low * inverse)) : 0);
    int32_t halves[2];
    Isa::Quantise32(x + b * kBlock, inverse, zero, to.q + at * kBlock, halves);
    // Two 16-bit factors: -zero, and minus the sum of q.
    const auto start = [zero](int32_t sum) {
      return static_cast<int32_t>(-static_cast<uint32_t>(sum) << 16 | (-zero & 0xffff));
    };
    to.d[at] = d;
    to.sum[at] = static_cast<float>(halves[0] + halves[1] - kBlock * zero);
    to.start[at] = start(halves[0] + halves[1]);
    to.start_half[2 * at] = start(halves[0]);
    to.start_half[2 * at + 1] = start(halves[1]);
  }
}

// ---- float weights ----

template <typename Isa>
struct F32 {
  static constexpr int64_t kBytes = 4;
  [[gnu::always_inline]] static inline typename Isa::F Load(const uint8_t* at) {
    return Isa::LoadF(reinterpret_cast<const float*>(at));
  }
};
template <typename Isa>
struct F16 {
  static constexpr int64_t kBytes = 2;
  [[gnu::always_inline]] static inline typename Isa::F Load(const uint8_t* at) { return Isa::FromF16(at); }
};
template <typename Isa>
struct BF16 {
  static constexpr int64_t kBytes = 2;
  [[gnu::always_inline]] static inline typename Isa::F Load(const uint8_t* at) { return Isa::FromBF16(at); }
};

template <typename Isa, typename W, int kStrips, int T>
[[gnu::always_inline]] inline void FloatTile(const Pair& pair, const float* x, int64_t k, int64_t token) {
  typename Isa::F sums[kStrips][T][2];
#pragma GCC unroll 2
  for (int s = 0; s < kStrips; ++s) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) sums[s][t][0] = sums[s][t][1] = Isa::ZeroF();
  }
  const float* row = x + token * k;
  int64_t i = 0;
  for (; i + 2 <= k; i += 2) {
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; ++odd) {
      typename Isa::F w[kStrips];
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) w[s] = W::Load(pair.strip[s] + (i + odd) * kRows * W::kBytes);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const typename Isa::F v = Isa::SetF(row[t * k + i + odd]);
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) sums[s][t][odd] = Isa::Fma(w[s], v, sums[s][t][odd]);
      }
    }
  }
  if (i < k) {
    for (int s = 0; s < kStrips; ++s) {
      const typename Isa::F w = W::Load(pair.strip[s] + i * kRows * W::kBytes);
      for (int t = 0; t < T; ++t) sums[s][t][0] = Isa::Fma(w, Isa::SetF(row[t * k + i]), sums[s][t][0]);
    }
  }
  for (int t = 0; t < T; ++t) {
    const typename Isa::F first = Isa::Add(sums[0][t][0], sums[0][t][1]);
    Finish<Isa>(pair, token + t, first,
                kStrips == 2 ? Isa::Add(sums[kStrips - 1][t][0], sums[kStrips - 1][t][1]) : Isa::ZeroF());
  }
}

template <typename Isa, typename W, int kStrips>
void FloatPair(const Pair& pair, const float* x, int64_t k, int64_t tokens) {
  constexpr int kTile = Isa::kFloatTile;
  int64_t t = 0;
  for (; t + kTile <= tokens; t += kTile) FloatTile<Isa, W, kStrips, kTile>(pair, x, k, t);
  for (; t < tokens; ++t) FloatTile<Isa, W, kStrips, 1>(pair, x, k, t);
}

template <typename Isa, typename W>
void FloatPairs(const Pairs& pairs, const float* x, int64_t k, int64_t tokens) {
  for (int64_t i = 0; i < pairs.count; ++i) {
    if (pairs.first[i].strip[1] != nullptr) {
      FloatPair<Isa, W, 2>(pairs.first[i], x, k, tokens);
    } else {
      FloatPair<Isa, W, 1>(pairs.first[i], x, k, tokens);
    }
  }
}

// ---- the table ----

template <typename Isa>
void Multiply(DType dtype, const Pairs& pairs, const Tensor& input, const QuantisedX& x, std::byte* scratch) {
  const int64_t tokens = input.rows, k = input.cols;
  switch (dtype) {
    case DType::kF32:
      return FloatPairs<Isa, F32<Isa>>(pairs, input.f32(), k, tokens);
    case DType::kF16:
      return FloatPairs<Isa, F16<Isa>>(pairs, input.f32(), k, tokens);
    case DType::kBF16:
      return FloatPairs<Isa, BF16<Isa>>(pairs, input.f32(), k, tokens);
    case DType::kQ8_0:
      return QuantisedPairs<Isa, WeightType<DType::kQ8_0>>(pairs, x, tokens, scratch);
    case DType::kQ4_0:
      return QuantisedPairs<Isa, WeightType<DType::kQ4_0>>(pairs, x, tokens, scratch);
    case DType::kQ4_1:
      return QuantisedPairs<Isa, WeightType<DType::kQ4_1>>(pairs, x, tokens, scratch);
    case DType::kQ5_0:
      return QuantisedPairs<Isa, WeightType<DType::kQ5_0>>(pairs, x, tokens, scratch);
    case DType::kQ5_1:
      return QuantisedPairs<Isa, WeightType<DType::kQ5_1>>(pairs, x, tokens, scratch);
    case DType::kQ4_K:
      return QuantisedPairs<Isa, WeightType<DType::kQ4_K>>(pairs, x, tokens, scratch);
    case DType::kQ5_K:
      return QuantisedPairs<Isa, WeightType<DType::kQ5_K>>(pairs, x, tokens, scratch);
    case DType::kQ6_K:
      return QuantisedPairs<Isa, WeightType<DType::kQ6_K>>(pairs, x, tokens, scratch);
    case DType::kIQ4_NL:
      return QuantisedPairs<Isa, WeightType<DType::kIQ4_NL>>(pairs, x, tokens, scratch);
    case DType::kIQ4_XS:
      return QuantisedPairs<Isa, WeightType<DType::kIQ4_XS>>(pairs, x, tokens, scratch);
    case DType::kMXFP4:
      return QuantisedPairs<Isa, WeightType<DType::kMXFP4>>(pairs, x, tokens, scratch);
    case DType::kQ3_K:
      return QuantisedPairs<Isa, WeightType<DType::kQ3_K>>(pairs, x, tokens, scratch);
    case DType::kQ2_K:
      return QuantisedPairs<Isa, WeightType<DType::kQ2_K>>(pairs, x, tokens, scratch);
    default:
      CHECK_MSG(false, "not a weight type");
  }
}

template <typename Isa>
void Gate(GateKind kind, float* gate, const float* up, int64_t count) {
  for (int64_t i = 0; i < count; i += kRows) {
    const int some = static_cast<int>(count - i < kRows ? count - i : kRows);
    const typename Isa::F act = Isa::Activate(kind, Isa::LoadSome(gate + i, some));
    Isa::StoreSome(gate + i, some, Isa::Mul(act, Isa::LoadSome(up + i, some)));
  }
}

template <typename Isa>
constexpr StripKernels kStripKernels{static_cast<int64_t>(sizeof(PanelScratch<Isa, WeightType<DType::kQ6_K>>)),
                                     &QuantiseRow<Isa>, &Multiply<Isa>, &Gate<Isa>};

}  // namespace
}  // namespace interlace::strips
