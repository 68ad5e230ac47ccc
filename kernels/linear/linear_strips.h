// linear and gated_linear over strips (weight_strips.h), written once for the avx2 and the avx512 table. Included by
// linear_avx2.cc and linear_avx512.cc alone; everything has internal linkage. `Isa` names their vectors of 16 lanes.
//
// The sum of a row, whatever the number of tokens, tiles or threads:
//   quantised: blocks of 32 in ascending order; the integer products of a block (Q6_K: of each half) are added exactly,
//     then a = fma(float(products), d_w * d_x, a), and where there is a minimum b = fma(m_w, s_x, b); the sum is a + b.
//     x is quantised per row and block, to 8 bits with a zero point: low = min(x, 0), high = max(x, 0), d_x = (high -
//     low) / 254, z = 1 + nearest(-low / d_x), q = nearest(x / d_x) + z in [1, 255], s_x = d_x * sum(q - z). Half the
//     error of a symmetric scale, where a block's outlier has one sign. A block that holds NaN or infinity makes d_x
//     NaN.
//   float: a takes the even elements of k, b the odd ones, each by one fused multiply-add; the sum is a + b.
// So avx2 and avx512 give the same bits, too.
#pragma once

#include <string.h>

#include "common/check.h"
#include "kernels/linear/strip_work.h"

namespace interlace::strips {
namespace {

constexpr int kVectors = 8;           // of codes in a block
constexpr int64_t kPanelBlocks = 48;  // of k unpacked at once: 2048 elements
constexpr int64_t kTokenBlock = 192;  // tokens that share an unpacked panel
constexpr int64_t kDirectTokens = 8;  // up to so many tokens multiply straight from the packed strip

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
    int32_t sums[2];
    const int32_t zero = 1 + (finite ? static_cast<int32_t>(__builtin_nearbyintf(-low * inverse)) : 0);
    Isa::Quantise32(x + b * kBlock, inverse, zero, to.q + row * to.k + b * kBlock, sums);
    to.d[at] = d;
    to.z[at] = static_cast<float>(-zero);
    to.sum[2 * at] = kBlock / 2 * zero - sums[0];
    to.sum[2 * at + 1] = kBlock / 2 * zero - sums[1];
    to.s[at] = d * static_cast<float>(sums[0] + sums[1] - kBlock * zero);
  }
}

// ---- weight types ----

// One block of a strip in registers.
template <typename Isa, int kSubs>
struct Codes {
  typename Isa::I q[kVectors];
  typename Isa::F d[kSubs];
  typename Isa::F m;
};

// Sums of the codes of each half of a block, or of all of it; as F32, exact.
template <typename Isa, typename W>
[[gnu::always_inline]] inline void SumCodes(const Codes<Isa, W::kSubs>& codes, typename Isa::F sums[W::kSubs]) {
  constexpr int kEach = kVectors / W::kSubs;
#pragma GCC unroll 2
  for (int i = 0; i < W::kSubs; ++i) sums[i] = Isa::template SumBytes<W::kWide, kEach>(codes.q + i * kEach);
}

template <typename Isa>
[[gnu::always_inline]] inline void LoadNibbles(const uint8_t* at, typename Isa::I q[kVectors]) {
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) Isa::SplitNibbles(at + 64 * j, &q[j], &q[j + 4]);
}
template <typename Isa>
[[gnu::always_inline]] inline void LoadFives(const uint8_t* at, const uint8_t* high, typename Isa::I q[kVectors]) {
  LoadNibbles<Isa>(at, q);
#pragma GCC unroll 8
  for (int j = 0; j < kVectors; ++j) q[j] = Isa::AddBit4(q[j], high + 8 * j);
}

// Each type: kSubs scales a block, whether it has minima, log2 of what codes are above their values (-1: nothing).
template <typename Isa>
struct Q4_0 {
  static constexpr Layout kLayout = LayoutOf(DType::kQ4_0);
  static constexpr int kSubs = 1, kShift = 3;
  static constexpr bool kMinimum = false, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadNibbles<Isa>(s + kLayout.codes_at(b), out->q);
    out->d[0] = Isa::FromF16(s + kLayout.scales_at(b));
  }
};
template <typename Isa>
struct Q4_1 {
  static constexpr Layout kLayout = LayoutOf(DType::kQ4_1);
  static constexpr int kSubs = 1, kShift = -1;
  static constexpr bool kMinimum = true, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadNibbles<Isa>(s + kLayout.codes_at(b), out->q);
    out->d[0] = Isa::FromF16(s + kLayout.scales_at(b));
    out->m = Isa::FromF16(s + kLayout.scales_at(b) + 32);
  }
};
template <typename Isa>
struct Q5_0 {
  static constexpr Layout kLayout = LayoutOf(DType::kQ5_0);
  static constexpr int kSubs = 1, kShift = 4;
  static constexpr bool kMinimum = false, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadFives<Isa>(s + kLayout.codes_at(b), s + kLayout.high_at(b), out->q);
    out->d[0] = Isa::FromF16(s + kLayout.scales_at(b));
  }
};
template <typename Isa>
struct Q5_1 {
  static constexpr Layout kLayout = LayoutOf(DType::kQ5_1);
  static constexpr int kSubs = 1, kShift = -1;
  static constexpr bool kMinimum = true, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadFives<Isa>(s + kLayout.codes_at(b), s + kLayout.high_at(b), out->q);
    out->d[0] = Isa::FromF16(s + kLayout.scales_at(b));
    out->m = Isa::FromF16(s + kLayout.scales_at(b) + 32);
  }
};
template <typename Isa>
struct Q8_0 {
  static constexpr Layout kLayout = LayoutOf(DType::kQ8_0);
  static constexpr int kSubs = 1, kShift = -1;
  static constexpr bool kMinimum = false, kWide = true;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) out->q[j] = Isa::LoadBytes(s + kLayout.codes_at(b) + 64 * j);
    out->d[0] = Isa::FromF16(s + kLayout.scales_at(b));
  }
};
template <typename Isa>
[[gnu::always_inline]] inline void LoadScalesK(const uint8_t* scales, const uint8_t* supers, Codes<Isa, 1>* out) {
  out->d[0] = Isa::Mul(Isa::FromF16(supers), Isa::FromU8(scales));
  out->m = Isa::Negate(Isa::Mul(Isa::FromF16(supers + 32), Isa::FromU8(scales + 16)));
}
template <typename Isa>
struct Q4_K {
  static constexpr Layout kLayout = LayoutOf(DType::kQ4_K);
  static constexpr int kSubs = 1, kShift = -1;
  static constexpr bool kMinimum = true, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadNibbles<Isa>(s + kLayout.codes_at(b), out->q);
    LoadScalesK<Isa>(s + kLayout.scales_at(b), s + kLayout.supers_at(b), out);
  }
};
template <typename Isa>
struct Q5_K {
  static constexpr Layout kLayout = LayoutOf(DType::kQ5_K);
  static constexpr int kSubs = 1, kShift = -1;
  static constexpr bool kMinimum = true, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadFives<Isa>(s + kLayout.codes_at(b), s + kLayout.high_at(b), out->q);
    LoadScalesK<Isa>(s + kLayout.scales_at(b), s + kLayout.supers_at(b), out);
  }
};
template <typename Isa>
struct Q6_K {
  static constexpr Layout kLayout = LayoutOf(DType::kQ6_K);
  static constexpr int kSubs = 2, kShift = 5;
  static constexpr bool kMinimum = false, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 2>* out) {
    LoadNibbles<Isa>(s + kLayout.codes_at(b), out->q);
#pragma GCC unroll 2
    for (int a = 0; a < 2; ++a) Isa::AddBits45(s + kLayout.high_at(b) + 64 * a, out->q + 4 * a);
    const typename Isa::F d = Isa::FromF16(s + kLayout.supers_at(b));
    out->d[0] = Isa::Mul(d, Isa::FromI8(s + kLayout.scales_at(b)));
    out->d[1] = Isa::Mul(d, Isa::FromI8(s + kLayout.scales_at(b) + 16));
  }
};

// ---- one block times one token ----

template <typename Isa>
struct Sums {
  typename Isa::F a, b;
};

// Where products of a block begin: what codes are above their values.
template <typename Isa, typename W>
[[gnu::always_inline]] inline typename Isa::I Start(const int32_t* negative, int sub) {
  if constexpr (W::kShift < 0) return Isa::ZeroI();
  const int32_t sum = W::kSubs == 1 ? negative[0] + negative[1] : negative[sub];
  return Isa::SetI(sum * (1 << (W::kShift < 0 ? 0 : W::kShift)));
}

// Adds a block's products: with the zero point taken out, times both scales.
template <typename Isa, typename W>
[[gnu::always_inline]] inline typename Isa::F AddProducts(typename Isa::I products, typename Isa::F code_sum, float z,
                                                          typename Isa::F scale, typename Isa::F to) {
  const typename Isa::F zero = Isa::SetF(z + (W::kWide ? Isa::kWideZero : 0));
  return Isa::Fma(Isa::Fma(zero, code_sum, Isa::FromI(products)), scale, to);
}

template <typename Isa, typename W>
[[gnu::always_inline]] inline void AddBlock(const Codes<Isa, W::kSubs>& codes, const typename Isa::F* code_sums,
                                            const QuantisedX& x, int64_t token, int64_t block, Sums<Isa>* sums) {
  const int64_t at = token * x.blocks + block;
  const uint8_t* q = x.q + token * x.k + block * kBlock;
  const typename Isa::F dx = Isa::SetF(x.d[at]);
#pragma GCC unroll 2
  for (int i = 0; i < W::kSubs; ++i) {
    // Two chains, so that a product need not wait for the one before.
    typename Isa::I even = Start<Isa, W>(x.sum + 2 * at, i), odd = Isa::ZeroI();
    constexpr int kEach = kVectors / W::kSubs;
#pragma GCC unroll 8
    for (int j = i * kEach; j < (i + 1) * kEach; j += 2) {
      even = Isa::template Dot<W::kWide>(even, codes.q[j], q + 4 * j);
      odd = Isa::template Dot<W::kWide>(odd, codes.q[j + 1], q + 4 * j + 4);
    }
    sums->a = AddProducts<Isa, W>(Isa::AddI(even, odd), code_sums[i], x.z[at], Isa::Mul(codes.d[i], dx), sums->a);
  }
  if constexpr (W::kMinimum) sums->b = Isa::Fma(codes.m, Isa::SetF(x.s[at]), sums->b);
}

// ---- what is done with a finished sum ----

template <typename Isa>
[[gnu::always_inline]] inline void Write(const Target& to, int64_t token, typename Isa::F sum) {
  float* y = to.y + token * to.stride;
  if (to.bias != nullptr) sum = Isa::Add(sum, Isa::LoadSome(to.bias, to.rows));
  if (to.accumulate) sum = Isa::Add(Isa::LoadSome(y, to.rows), sum);
  Isa::StoreSome(y, to.rows, sum);
}

template <typename Isa>
[[gnu::always_inline]] inline typename Isa::F Total(const Sums<Isa>& sums) {
  return Isa::Add(sums.a, sums.b);
}

template <typename Isa>
[[gnu::always_inline]] inline void Finish(const Pair& pair, int64_t token, typename Isa::F first,
                                          typename Isa::F second) {
  if (pair.gated) {
    Write<Isa>(pair.target[0], token, Isa::Mul(Isa::Activate(pair.kind, first), second));
    return;
  }
  Write<Isa>(pair.target[0], token, first);
  if (pair.strip[1] != nullptr) Write<Isa>(pair.target[1], token, second);
}

// ---- few tokens: straight from the strip ----

template <typename Isa, typename W, int T>
[[gnu::always_inline]] inline void DirectStrip(const uint8_t* strip, const QuantisedX& x, int64_t token,
                                               Sums<Isa>* sums) {
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) sums[t] = {Isa::ZeroF(), Isa::ZeroF()};
  for (int64_t b = 0; b < x.blocks; ++b) {
    Codes<Isa, W::kSubs> codes;
    W::Load(strip, b, &codes);
    typename Isa::F code_sums[W::kSubs];
    SumCodes<Isa, W>(codes, code_sums);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) AddBlock<Isa, W>(codes, code_sums, x, token + t, b, &sums[t]);
  }
}

template <typename Isa, typename W, int T>
void DirectPair(const Pair& pair, const QuantisedX& x, int64_t token) {
  Sums<Isa> first[T], second[T];
  DirectStrip<Isa, W, T>(pair.strip[0], x, token, first);
  if (pair.strip[1] != nullptr) DirectStrip<Isa, W, T>(pair.strip[1], x, token, second);
  for (int t = 0; t < T; ++t) {
    Finish<Isa>(pair, token + t, Total<Isa>(first[t]), pair.strip[1] ? Total<Isa>(second[t]) : Isa::ZeroF());
  }
}

// Four tokens at a time: from the second time on, the strips are in the first-level cache.
template <typename Isa, typename W>
void DirectTokens(const Pair& pair, const QuantisedX& x, int64_t tokens) {
  constexpr int kTile = Isa::kDirectTile;
  int64_t t = 0;
  for (; t + kTile <= tokens; t += kTile) DirectPair<Isa, W, kTile>(pair, x, t);
  if (kTile > 2 && t + 2 <= tokens) {
    DirectPair<Isa, W, 2>(pair, x, t);
    t += 2;
  }
  if (t < tokens) DirectPair<Isa, W, 1>(pair, x, t);
}

// ---- many tokens: a panel of codes, one byte each ----

// Two strips of up to kPanelBlocks blocks.
template <typename Isa, int kSubs>
struct Panel {
  alignas(64) uint8_t codes[kPanelBlocks][2][512];
  alignas(64) float d[kPanelBlocks][2][kSubs][kRows];
  alignas(64) float code_sums[kPanelBlocks][2][kSubs][kRows];
  alignas(64) float m[kPanelBlocks][2][kRows];
};

template <typename Isa, typename W>
void FillPanel(const Pair& pair, int64_t first, int64_t count, Panel<Isa, W::kSubs>* panel) {
  for (int s = 0; s < 2 && pair.strip[s] != nullptr; ++s) {
    for (int64_t b = 0; b < count; ++b) {
      Codes<Isa, W::kSubs> codes;
      W::Load(pair.strip[s], first + b, &codes);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) Isa::StoreBytes(panel->codes[b][s] + 64 * j, codes.q[j]);
      typename Isa::F code_sums[W::kSubs];
      SumCodes<Isa, W>(codes, code_sums);
      for (int i = 0; i < W::kSubs; ++i) {
        Isa::StoreF(panel->d[b][s][i], codes.d[i]);
        Isa::StoreF(panel->code_sums[b][s][i], code_sums[i]);
      }
      if constexpr (W::kMinimum) Isa::StoreF(panel->m[b][s], codes.m);
    }
  }
}

// Adds blocks [first, first + count) of kStrips strips for T tokens. sums: [T][2] pairs in memory, [token][strip].
template <typename Isa, typename W, int kStrips, int T>
[[gnu::always_inline]] inline void Tile(const Panel<Isa, W::kSubs>& panel, int strip, int64_t first, int64_t count,
                                        const QuantisedX& x, int64_t token, float* memory, bool fresh) {
  Sums<Isa> sums[kStrips][T];
#pragma GCC unroll 2
  for (int s = 0; s < kStrips; ++s) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      float* at = memory + ((t * 2 + strip + s) * 2) * kRows;
      sums[s][t].a = fresh ? Isa::ZeroF() : Isa::LoadF(at);
      sums[s][t].b = fresh || !W::kMinimum ? Isa::ZeroF() : Isa::LoadF(at + kRows);
    }
  }
  for (int64_t b = 0; b < count; ++b) {
    typename Isa::I a[kStrips][T][W::kSubs];
    const uint8_t* q = x.q + token * x.k + (first + b) * kBlock;
    const int64_t at = token * x.blocks + first + b;
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
      for (int i = 0; i < W::kSubs; ++i) {
        const typename Isa::I start = Start<Isa, W>(x.sum + 2 * (at + t * x.blocks), i);
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) a[s][t][i] = start;
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      typename Isa::I codes[kStrips];
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) codes[s] = Isa::LoadBytes(panel.codes[b][strip + s] + 64 * j);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) {
          typename Isa::I& sum = a[s][t][W::kSubs == 1 ? 0 : j / 4];
          sum = Isa::template Dot<W::kWide>(sum, codes[s], q + t * x.k + 4 * j);
        }
      }
    }
#pragma GCC unroll 2
    for (int s = 0; s < kStrips; ++s) {
#pragma GCC unroll 2
      for (int i = 0; i < W::kSubs; ++i) {
        const typename Isa::F d = Isa::LoadF(panel.d[b][strip + s][i]);
        const typename Isa::F code_sum = Isa::LoadF(panel.code_sums[b][strip + s][i]);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
          const int64_t of = at + t * x.blocks;
          const typename Isa::F scale = Isa::Mul(d, Isa::SetF(x.d[of]));
          sums[s][t].a = AddProducts<Isa, W>(a[s][t][i], code_sum, x.z[of], scale, sums[s][t].a);
        }
      }
      if constexpr (W::kMinimum) {
        const typename Isa::F m = Isa::LoadF(panel.m[b][strip + s]);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sums[s][t].b = Isa::Fma(m, Isa::SetF(x.s[at + t * x.blocks]), sums[s][t].b);
      }
    }
  }
#pragma GCC unroll 2
  for (int s = 0; s < kStrips; ++s) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      float* at_sums = memory + ((t * 2 + strip + s) * 2) * kRows;
      Isa::StoreF(at_sums, sums[s][t].a);
      if constexpr (W::kMinimum) Isa::StoreF(at_sums + kRows, sums[s][t].b);
    }
  }
}

template <typename Isa, typename W, int T>
void TileTokens(const Panel<Isa, W::kSubs>& panel, bool two, int64_t first, int64_t count, const QuantisedX& x,
                int64_t token, float* memory, bool fresh) {
  if constexpr (Isa::kTileStrips == 2) {
    if (two) {
      Tile<Isa, W, 2, T>(panel, 0, first, count, x, token, memory, fresh);
    } else {
      Tile<Isa, W, 1, T>(panel, 0, first, count, x, token, memory, fresh);
    }
  } else {
    Tile<Isa, W, 1, T>(panel, 0, first, count, x, token, memory, fresh);
    if (two) Tile<Isa, W, 1, T>(panel, 1, first, count, x, token, memory, fresh);
  }
}

template <typename Isa, typename W>
struct PanelScratch {
  Panel<Isa, W::kSubs> panel;
  alignas(64) float sums[kTokenBlock][2][2][kRows];
};

template <typename Isa, typename W>
void PanelPair(const Pair& pair, const QuantisedX& x, int64_t tokens, PanelScratch<Isa, W>* scratch) {
  constexpr int kTile = W::kSubs == 1 ? Isa::kTileTokens : Isa::kTileTokens / 2;
  const bool two = pair.strip[1] != nullptr;
  const int64_t panels = (x.blocks + kPanelBlocks - 1) / kPanelBlocks;
  for (int64_t t0 = 0; t0 < tokens; t0 += kTokenBlock) {
    const int64_t n = tokens - t0 < kTokenBlock ? tokens - t0 : kTokenBlock;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t first = p * kPanelBlocks, count = x.blocks - first < kPanelBlocks ? x.blocks - first : kPanelBlocks;
      if (t0 == 0 || panels > 1) FillPanel<Isa, W>(pair, first, count, &scratch->panel);
      int64_t t = 0;
      for (; t + kTile <= n; t += kTile) {
        TileTokens<Isa, W, kTile>(scratch->panel, two, first, count, x, t0 + t, scratch->sums[t][0][0], p == 0);
      }
      for (; t + 2 <= n; t += 2) {
        TileTokens<Isa, W, 2>(scratch->panel, two, first, count, x, t0 + t, scratch->sums[t][0][0], p == 0);
      }
      if (t < n) TileTokens<Isa, W, 1>(scratch->panel, two, first, count, x, t0 + t, scratch->sums[t][0][0], p == 0);
    }
    for (int64_t t = 0; t < n; ++t) {
      typename Isa::F total[2] = {Isa::ZeroF(), Isa::ZeroF()};
      for (int s = 0; s < (two ? 2 : 1); ++s) {
        total[s] = Isa::LoadF(scratch->sums[t][s][0]);
        total[s] = Isa::Add(total[s], W::kMinimum ? Isa::LoadF(scratch->sums[t][s][1]) : Isa::ZeroF());
      }
      Finish<Isa>(pair, t0 + t, total[0], total[1]);
    }
  }
}

template <typename Isa, typename W>
void QuantisedPairs(const Pair* pairs, int64_t count, const QuantisedX& x, int64_t tokens, std::byte* scratch) {
  static_assert(sizeof(PanelScratch<Isa, W>) <= sizeof(PanelScratch<Isa, Q6_K<Isa>>));
  for (int64_t i = 0; i < count; ++i) {
    if (tokens <= kDirectTokens) {
      DirectTokens<Isa, W>(pairs[i], x, tokens);
    } else {
      PanelPair<Isa, W>(pairs[i], x, tokens, reinterpret_cast<PanelScratch<Isa, W>*>(scratch));
    }
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
void FloatPairs(const Pair* pairs, int64_t count, const float* x, int64_t k, int64_t tokens) {
  for (int64_t i = 0; i < count; ++i) {
    if (pairs[i].strip[1] != nullptr) {
      FloatPair<Isa, W, 2>(pairs[i], x, k, tokens);
    } else {
      FloatPair<Isa, W, 1>(pairs[i], x, k, tokens);
    }
  }
}

// ---- the table ----

template <typename Isa>
void Multiply(DType dtype, const Pair* pairs, int64_t count, const Tensor& input, const QuantisedX& x,
              std::byte* scratch) {
  const int64_t tokens = input.rows, k = input.cols;
  switch (dtype) {
    case DType::kF32:
      return FloatPairs<Isa, F32<Isa>>(pairs, count, input.f32(), k, tokens);
    case DType::kF16:
      return FloatPairs<Isa, F16<Isa>>(pairs, count, input.f32(), k, tokens);
    case DType::kBF16:
      return FloatPairs<Isa, BF16<Isa>>(pairs, count, input.f32(), k, tokens);
    case DType::kQ8_0:
      return QuantisedPairs<Isa, Q8_0<Isa>>(pairs, count, x, tokens, scratch);
    case DType::kQ4_0:
      return QuantisedPairs<Isa, Q4_0<Isa>>(pairs, count, x, tokens, scratch);
    case DType::kQ4_1:
      return QuantisedPairs<Isa, Q4_1<Isa>>(pairs, count, x, tokens, scratch);
    case DType::kQ5_0:
      return QuantisedPairs<Isa, Q5_0<Isa>>(pairs, count, x, tokens, scratch);
    case DType::kQ5_1:
      return QuantisedPairs<Isa, Q5_1<Isa>>(pairs, count, x, tokens, scratch);
    case DType::kQ4_K:
      return QuantisedPairs<Isa, Q4_K<Isa>>(pairs, count, x, tokens, scratch);
    case DType::kQ5_K:
      return QuantisedPairs<Isa, Q5_K<Isa>>(pairs, count, x, tokens, scratch);
    case DType::kQ6_K:
      return QuantisedPairs<Isa, Q6_K<Isa>>(pairs, count, x, tokens, scratch);
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
constexpr StripKernels kStripKernels{static_cast<int64_t>(sizeof(PanelScratch<Isa, Q6_K<Isa>>)), &QuantiseRow<Isa>,
                                     &Multiply<Isa>, &Gate<Isa>};

}  // namespace
}  // namespace interlace::strips
