// How each quantised weight type's block of a strip is loaded into registers. Included by strip_tiles.h alone;
// everything has internal linkage.
#pragma once

#include "kernels/linear/weight_strips.h"

namespace interlace::strips {
namespace {

constexpr int kVectors = 8;  // of codes in a block

// One block of a strip in registers.
template <typename Isa, int kSubs>
struct Codes {
  typename Isa::I q[kVectors];
  typename Isa::F d[kSubs];
  typename Isa::F m;
};

// What a block's products begin with, as 16-bit factors of QuantisedX::start: the sum of (code - offset) in the low
// half of each lane, the offset in the high one.
template <typename Isa, typename W>
[[gnu::always_inline]] inline void StartFactors(const Codes<Isa, W::kSubs>& codes, typename Isa::I factors[W::kSubs]) {
  constexpr int kEach = kVectors / W::kSubs;
#pragma GCC unroll 2
  for (int i = 0; i < W::kSubs; ++i) {
    const typename Isa::I sum = Isa::template SumBytes<W::kWide, kEach>(codes.q + i * kEach);
    factors[i] = Isa::PairWords(sum, 4 * kEach * W::kOffset, W::kOffset);
  }
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

// Each type: kSubs scales a block, how far codes are above their values, whether it has minima, whether codes are
// signed bytes.
template <typename Isa>
struct Q4_0 {
  static constexpr Layout kLayout = LayoutOf(DType::kQ4_0);
  static constexpr int kSubs = 1, kOffset = 8;
  static constexpr bool kMinimum = false, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadNibbles<Isa>(s + kLayout.codes_at(b), out->q);
    out->d[0] = Isa::FromF16(s + kLayout.scales_at(b));
  }
};
template <typename Isa>
struct Q4_1 {
  static constexpr Layout kLayout = LayoutOf(DType::kQ4_1);
  static constexpr int kSubs = 1, kOffset = 0;
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
  static constexpr int kSubs = 1, kOffset = 16;
  static constexpr bool kMinimum = false, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadFives<Isa>(s + kLayout.codes_at(b), s + kLayout.high_at(b), out->q);
    out->d[0] = Isa::FromF16(s + kLayout.scales_at(b));
  }
};
template <typename Isa>
struct Q5_1 {
  static constexpr Layout kLayout = LayoutOf(DType::kQ5_1);
  static constexpr int kSubs = 1, kOffset = 0;
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
  static constexpr int kSubs = 1, kOffset = 0;
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
  static constexpr int kSubs = 1, kOffset = 0;
  static constexpr bool kMinimum = true, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadNibbles<Isa>(s + kLayout.codes_at(b), out->q);
    LoadScalesK<Isa>(s + kLayout.scales_at(b), s + kLayout.supers_at(b), out);
  }
};
template <typename Isa>
struct Q5_K {
  static constexpr Layout kLayout = LayoutOf(DType::kQ5_K);
  static constexpr int kSubs = 1, kOffset = 0;
  static constexpr bool kMinimum = true, kWide = false;
  [[gnu::always_inline]] static inline void Load(const uint8_t* s, int64_t b, Codes<Isa, 1>* out) {
    LoadFives<Isa>(s + kLayout.codes_at(b), s + kLayout.high_at(b), out->q);
    LoadScalesK<Isa>(s + kLayout.scales_at(b), s + kLayout.supers_at(b), out);
  }
};
template <typename Isa>
struct Q6_K {
  static constexpr Layout kLayout = LayoutOf(DType::kQ6_K);
  static constexpr int kSubs = 2, kOffset = 32;
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

}  // namespace
}  // namespace interlace::strips
