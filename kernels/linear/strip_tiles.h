// Quantised strips times quantised tokens, written once for any instruction set. Included by linear_strips.h alone,
// which says what the sum of a row is; everything has internal linkage.
#pragma once

#include "kernels/linear/strip_codes.h"
#include "kernels/linear/strip_work.h"

namespace interlace::strips {
namespace {

constexpr int64_t kPanelBlocks = 24;  // of k unpacked at once: 768 elements
constexpr int64_t kTokenBlock = 192;  // tokens that share an unpacked panel
constexpr int64_t kDirectTokens = 8;  // up to so many tokens multiply straight from the packed strip

// ---- one block ----

// The integer that a block's products begin with: what they are too high by, since codes and x both have an offset.
template <typename Isa, typename W>
[[gnu::always_inline]] inline typename Isa::I Start(typename Isa::I factors, const QuantisedX& x, int64_t at, int sub) {
  const int32_t word = W::kSubs == 1 ? x.start[at] : x.start_half[2 * at + sub];
  return Isa::MultiplyPairs(factors, word + (W::kWide ? Isa::kWideZero : 0));
}

// The sum of (q - z) over half a block, out of the factors that its start is made of.
inline float HalfSum(const QuantisedX& x, int64_t at, int half) {
  const int32_t word = x.start_half[2 * at + half];
  return static_cast<float>(-(word >> 16) + kBlock / 2 * static_cast<int16_t>(word));
}

// Adds a block's products to a row's sum.
template <typename Isa, typename W>
[[gnu::always_inline]] inline typename Isa::F AddProducts(const typename Isa::I products[W::kSubs],
                                                          const typename Isa::F d[W::kSubs],
                                                          const typename Isa::F m[W::kSubs], const QuantisedX& x,
                                                          int64_t at, typename Isa::F to) {
  typename Isa::F sum = Isa::Mul(Isa::FromI(products[0]), d[0]);
  if constexpr (W::kSubs == 2) sum = Isa::Fma(Isa::FromI(products[1]), d[1], sum);
  if constexpr (W::kMinimum && W::kSubs == 1) sum = Isa::Fma(m[0], Isa::SetF(x.sum[at]), sum);
  if constexpr (W::kMinimum && W::kSubs == 2) {
    sum = Isa::Fma(m[0], Isa::SetF(HalfSum(x, at, 0)), sum);
    sum = Isa::Fma(m[1], Isa::SetF(HalfSum(x, at, 1)), sum);
  }
  return Isa::Fma(sum, Isa::SetF(x.d[at]), to);
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
                                               typename Isa::F sums[T]) {
  using I = typename Isa::I;
  constexpr int kEach = kVectors / W::kSubs;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sums[t] = Isa::ZeroF();
  for (int64_t b = 0; b < x.blocks; ++b) {
    Codes<Isa, W> codes;
    LoadBlock(strip, b, &codes);
    I factors[W::kSubs];
    StartFactors(codes, factors);
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const int64_t at = (token + t) * x.blocks + b;
      const uint8_t* q = x.q + at * kBlock;
      I products[W::kSubs];
#pragma GCC unroll 2
      for (int i = 0; i < W::kSubs; ++i) {
        // Two chains, so that a product need not wait for the one before.
        I even = Start<Isa, W>(factors[i], x, at, i), odd = Isa::ZeroI();
#pragma GCC unroll 8
        for (int j = i * kEach; j < (i + 1) * kEach; j += 2) {
          even = Isa::template Dot<W::kWide>(even, codes.q[j], q + 4 * j);
          odd = Isa::template Dot<W::kWide>(odd, codes.q[j + 1], q + 4 * j + 4);
        }
        products[i] = Isa::AddI(even, odd);
      }
      sums[t] = AddProducts<Isa, W>(products, codes.d, codes.m, x, at, sums[t]);
    }
  }
}

template <typename Isa, typename W, int T>
void DirectPair(const Pair& pair, const QuantisedX& x, int64_t token) {
  typename Isa::F first[T], second[T];
  DirectStrip<Isa, W, T>(pair.strip[0], x, token, first);
  if (pair.strip[1] != nullptr) DirectStrip<Isa, W, T>(pair.strip[1], x, token, second);
  for (int t = 0; t < T; ++t) Finish<Isa>(pair, token + t, first[t], pair.strip[1] ? second[t] : Isa::ZeroF());
}

// From the second tile on, the strips are in the first-level cache.
template <typename Isa, typename W>
void DirectTokens(const Pair& pair, const QuantisedX& x, int64_t tokens) {
  constexpr int kTile = Isa::kDirectTile;
  int64_t t = 0;
  for (; t + kTile <= tokens; t += kTile) DirectPair<Isa, W, kTile>(pair, x, t);
  if (kTile > 4 && t + 4 <= tokens) {
    DirectPair<Isa, W, 4>(pair, x, t);
    t += 4;
  }
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
  alignas(64) uint8_t factors[kPanelBlocks][2][kSubs][4 * kRows];
  alignas(64) float d[kPanelBlocks][2][kSubs][kRows];
  alignas(64) float m[kPanelBlocks][2][kSubs][kRows];
};

template <typename Isa, typename W>
struct PanelScratch {
  Panel<Isa, W::kSubs> panel;
  alignas(64) float sums[kTokenBlock][2][kRows];
};

template <typename Isa, typename W>
void FillPanel(const Pair& pair, int64_t first, int64_t count, Panel<Isa, W::kSubs>* panel) {
  for (int s = 0; s < 2 && pair.strip[s] != nullptr; ++s) {
    for (int64_t b = 0; b < count; ++b) {
      Codes<Isa, W> codes;
      LoadBlock(pair.strip[s], first + b, &codes);
      typename Isa::I factors[W::kSubs];
      StartFactors(codes, factors);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; ++j) Isa::StoreBytes(panel->codes[b][s] + 64 * j, codes.q[j]);
      for (int i = 0; i < W::kSubs; ++i) {
        Isa::StoreBytes(panel->factors[b][s][i], factors[i]);
        Isa::StoreF(panel->d[b][s][i], codes.d[i]);
        if constexpr (W::kMinimum) Isa::StoreF(panel->m[b][s][i], codes.m[i]);
      }
    }
  }
}

// Adds blocks [first, first + count) of kStrips strips for T tokens to `sums`: [T][2][kRows], new where `fresh`.
template <typename Isa, typename W, int kStrips, int T>
[[gnu::always_inline]] inline void Tile(const Panel<Isa, W::kSubs>& panel, int strip, int64_t first, int64_t count,
                                        const QuantisedX& x, int64_t token, float* memory, bool fresh) {
  using I = typename Isa::I;
  using F = typename Isa::F;
  F sums[kStrips][T];
#pragma GCC unroll 2
  for (int s = 0; s < kStrips; ++s) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      sums[s][t] = fresh ? Isa::ZeroF() : Isa::LoadF(memory + (t * 2 + strip + s) * kRows);
    }
  }
  for (int64_t b = 0; b < count; ++b) {
    const int64_t at = token * x.blocks + first + b;
    const uint8_t* q = x.q + at * kBlock;
    I products[kStrips][T][W::kSubs];
#pragma GCC unroll 2
    for (int i = 0; i < W::kSubs; ++i) {
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        const I factors = Isa::LoadBytes(panel.factors[b][strip + s][i]);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) products[s][t][i] = Start<Isa, W>(factors, x, at + t * x.blocks, i);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; ++j) {
      I codes[kStrips];
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) codes[s] = Isa::LoadBytes(panel.codes[b][strip + s] + 64 * j);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) {
          I& sum = products[s][t][W::kSubs == 1 ? 0 : j / 4];
          sum = Isa::template Dot<W::kWide>(sum, codes[s], q + t * x.k + 4 * j);
        }
      }
    }
#pragma GCC unroll 2
    for (int s = 0; s < kStrips; ++s) {
      F d[W::kSubs], m[W::kSubs];
#pragma GCC unroll 2
      for (int i = 0; i < W::kSubs; ++i) {
        d[i] = Isa::LoadF(panel.d[b][strip + s][i]);
        m[i] = W::kMinimum ? Isa::LoadF(panel.m[b][strip + s][i]) : Isa::ZeroF();
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        sums[s][t] = AddProducts<Isa, W>(products[s][t], d, m, x, at + t * x.blocks, sums[s][t]);
      }
    }
  }
#pragma GCC unroll 2
  for (int s = 0; s < kStrips; ++s) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) Isa::StoreF(memory + (t * 2 + strip + s) * kRows, sums[s][t]);
  }
}

template <typename Isa>
[[gnu::noinline]] void FinishTokens(const Pair& pair, int64_t token, int64_t count, const float* sums) {
  for (int64_t t = 0; t < count; ++t) {
    Finish<Isa>(pair, token + t, Isa::LoadF(sums + 2 * t * kRows), Isa::LoadF(sums + (2 * t + 1) * kRows));
  }
}

// What is unpacked next: fetched while tiles are computed, which touch no memory beyond the caches.
struct Ahead {
  const uint8_t* from[2] = {nullptr, nullptr};
  int64_t bytes = 0;

  // Part [begin, end) of `of` equal ones.
  void Fetch(int64_t begin, int64_t end, int64_t of) const {
    for (int s = 0; s < 2 && from[s] != nullptr; ++s) {
      for (int64_t i = bytes * begin / of / 64 * 64; i < bytes * end / of; i += 64)
        __builtin_prefetch(from[s] + i, 0, 2);
    }
  }
};

// A panel that is in the first-level cache, and which part of k it is.
template <typename Isa, typename W>
struct Filled {
  const Pair& pair;
  const Panel<Isa, W::kSubs>& panel;
  int64_t first, count;  // blocks
  bool fresh, last;      // the first of its pair, the last
};

template <typename Isa, typename W, int T>
void TileTokens(const Filled<Isa, W>& part, const QuantisedX& x, int64_t token, float* sums) {
  const auto& [pair, panel, first, count, fresh, last] = part;
  const bool two = pair.strip[1] != nullptr;
  if constexpr (Isa::kTileStrips == 2) {
    if (two) {
      Tile<Isa, W, 2, T>(panel, 0, first, count, x, token, sums, fresh);
    } else {
      Tile<Isa, W, 1, T>(panel, 0, first, count, x, token, sums, fresh);
    }
  } else {
    Tile<Isa, W, 1, T>(panel, 0, first, count, x, token, sums, fresh);
    if (two) Tile<Isa, W, 1, T>(panel, 1, first, count, x, token, sums, fresh);
  }
  if (last) FinishTokens<Isa>(pair, token, T, sums);
}

// Tiles of as many tokens as registers hold, then smaller ones.
template <typename Isa, typename W>
void PanelTokens(const Filled<Isa, W>& part, const Ahead& ahead, const QuantisedX& x, int64_t begin, int64_t end,
                 float (*sums)[2][kRows]) {
  constexpr int kTile = W::kSubs == 1 ? Isa::kTileTokens : Isa::kTileTokens / 2;
  int64_t t = begin;
  const auto tile = [&]<int T>() {
    TileTokens<Isa, W, T>(part, x, t, sums[t - begin][0]);
    ahead.Fetch(t - begin, t + T - begin, end - begin);
    t += T;
  };
  while (t + kTile <= end && !(kTile > 4 && end - t == 8)) tile.template operator()<kTile>();  // 8: two times four
  if constexpr (kTile > 4) {
    while (t + 4 <= end) tile.template operator()<4>();
  }
  if constexpr (kTile > 2) {
    while (t + 2 <= end) tile.template operator()<2>();
  }
  while (t < end) tile.template operator()<1>();
}

// `next`: the pair that this thread will do next, or null.
template <typename Isa, typename W>
void PanelPair(const Pair& pair, const Pair* next, const QuantisedX& x, int64_t tokens, PanelScratch<Isa, W>* scratch) {
  const int64_t panels = (x.blocks + kPanelBlocks - 1) / kPanelBlocks;
  for (int64_t t0 = 0; t0 < tokens; t0 += kTokenBlock) {
    const int64_t end = tokens - t0 < kTokenBlock ? tokens : t0 + kTokenBlock;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t first = x.blocks * p / panels, count = x.blocks * (p + 1) / panels - first;
      if (t0 == 0 || panels > 1) FillPanel<Isa, W>(pair, first, count, &scratch->panel);
      Ahead ahead;
      const bool last = p == panels - 1;
      if (const Pair* coming = last ? next : &pair; coming != nullptr && t0 == 0) {
        const int64_t from = last ? 0 : W::kLayout.codes_at(first + count);
        ahead = {{coming->strip[0] + from, coming->strip[1] ? coming->strip[1] + from : nullptr},
                 W::kLayout.codes_at(count)};
      }
      PanelTokens<Isa, W>({pair, scratch->panel, first, count, p == 0, last}, ahead, x, t0, end, scratch->sums);
    }
  }
}

template <typename Isa, typename W>
void QuantisedPairs(const Pairs& pairs, const QuantisedX& x, int64_t tokens, std::byte* scratch) {
  static_assert(sizeof(PanelScratch<Isa, W>) <= sizeof(PanelScratch<Isa, WeightType<DType::kQ6_K>>), "scratch_bytes");
  for (int64_t i = 0; i < pairs.count; ++i) {
    const Pair* pair = pairs.first + i;
    if (tokens <= kDirectTokens) {
      DirectTokens<Isa, W>(*pair, x, tokens);
    } else {
      PanelPair<Isa, W>(*pair, i + 1 < pairs.known ? pair + 1 : nullptr, x, tokens,
                        reinterpret_cast<PanelScratch<Isa, W>*>(scratch));
    }
  }
}

}  // namespace
}  // namespace interlace::strips
