// Products in BF16 for K and V stored as BF16: the P of attention_split.h. Only paged_attention_avx512bf16.cc includes
// this; everything has internal linkage.
//
// vdpbf16ps adds two products of neighbours to a sum in F32: the odd pair's with one rounding, then the even pair's
// with another, both to nearest even whatever MXCSR says. Denormals, in and out, count as zero: BF16 elements below
// 2^-126 are nothing. 32-bit lanes hold pairs, the even element in the low half.
//
// Scores are in units of log2(e): a row's query times scale * log2(e) is rounded to BF16, and weights are powers of two
// rounded to BF16. Their sum is that of the rounded weights, so that outputs stay averages of V.
#pragma once

#include "kernels/cpu/simd_avx512.h"
#include "kernels/paged_attention/attention_split.h"

namespace interlace {
namespace {

// Two BF16, the even one in the low half.
struct BF16Pair {
  uint32_t bits;
};

struct BF16Products {
  using S = avx512::Simd;
  using F = __m512;
  using V = __m512i;
  using Query = BF16Pair;
  using Panel = BF16Pair;
  using Work = AttentionWork<BF16Pair>;
  static constexpr int kPacked = 2;
  static constexpr int kSubChunks = 8;
  static constexpr int64_t kChunksAhead = 6;
  static constexpr int kHalf = 16;  // elements of half a vector

  // Two or more chains per row hide the latency of a product.
  static constexpr int ChunksAtOnce(int rows) { return rows <= 2 ? 8 : 4; }

  // (a[0], b[0], a[1], b[1], ...)
  [[gnu::always_inline]] static V Interleave(__m256i a, __m256i b) {
    const __m512i order = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                                           37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    return _mm512_permutex2var_epi16(_mm512_castsi256_si512(a), order, _mm512_castsi256_si512(b));
  }
  [[gnu::always_inline]] static V Load(const BF16Bits* p, int64_t stride) {
    return Interleave(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + stride)));
  }
  [[gnu::always_inline]] static V Load(const BF16Pair* p, int64_t /*stride*/) { return _mm512_loadu_si512(p); }
  template <int N>
  [[gnu::always_inline]] static void LoadSide(const BF16Pair* p, int64_t /*stride*/, V (&to)[N]) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) to[n] = _mm512_loadu_si512(p + n * kHalf);
  }
  template <int N>
  [[gnu::always_inline]] static void LoadSide(const BF16Bits* p, int64_t stride, V (&to)[N]) {
    if constexpr (N % 2 == 1) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) to[n] = Load(p + n * kHalf, stride);
      return;
    }
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
#pragma GCC unroll 8
    for (int n = 0; n < N; n += 2) {
      const __m512i a = _mm512_loadu_si512(p + n * kHalf);
      const __m512i b = _mm512_loadu_si512(p + stride + n * kHalf);
      to[n] = _mm512_permutex2var_epi16(a, low, b);
      to[n + 1] = _mm512_permutex2var_epi16(a, high, b);
    }
  }
  [[gnu::always_inline]] static __m256i Load8(const BF16Bits* p, int64_t stride) {
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + stride));
    return _mm256_set_m128i(_mm_unpackhi_epi16(a, b), _mm_unpacklo_epi16(a, b));
  }
  [[gnu::always_inline]] static void Store(BF16Pair* p, V v) { _mm512_storeu_si512(p, v); }
  [[gnu::always_inline]] static void Store8(BF16Pair* p, __m256i v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  [[gnu::always_inline]] static V Set1(BF16Pair x) { return _mm512_set1_epi32(static_cast<int32_t>(x.bits)); }
  [[gnu::always_inline]] static F Fma(V a, V b, F c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
  // Elements [low, high) of each pair, zeros for the others: NaN there must not meet a weight of zero.
  [[gnu::always_inline]] static V Only(V v, int64_t low, int64_t high) {
    const uint32_t seen = (low <= 0 ? 0xffffu : 0u) | (high >= 2 ? 0xffff0000u : 0u);
    return _mm512_and_si512(v, _mm512_set1_epi32(static_cast<int32_t>(seen)));
  }

  template <class Body>
  [[gnu::always_inline]] static void WithStored(DType /*dtype*/, Body body) {
    body.template operator()<BF16Bits>();
  }

  static void PointAtQueries(Work& work, BF16Pair* room) {
    const int64_t head_dim = work.args.shape.head_dim;
    const __m512 factor = _mm512_set1_ps(work.args.scale * kBf16ScoreUnit);
    for (int64_t row = 0; row < work.rows; ++row, room += work.sizes.padded_dim / kPacked) {
      const float* q = work.QueryOf(row);
      auto* to = reinterpret_cast<__m256i*>(room);
      for (int64_t d = 0; d < head_dim; d += kHalf, ++to) {
        const __m512 scaled = _mm512_mul_ps(S::LoadFirst(q + d, head_dim - d), factor);
        _mm256_storeu_si256(to, (__m256i)_mm512_cvtneps_pbh(scaled));
      }
      work.q[row] = room;
    }
  }

  // 2^x for x <= 0 to 4e-6 of itself: less than a thousandth of what rounding to BF16 takes. Exact at 0.
  [[gnu::always_inline]] static F Exp2(F x) {
    const F r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    F p = _mm512_set1_ps(1.355574746e-02f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.203237012e-02f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.413797677e-01f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.930321455e-01f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_scalef_ps(p, x);
  }

  // Two vectors at a time, from a multiple of 32 positions on.
  template <class E>
  static void Softmax(const Work& work, const AttentionView<E>& /*view*/, int64_t row) {
    constexpr int64_t kLanes = S::kLanes;
    const VisibleRange seen = work.visible[row];
    float* scores = work.scores + row * work.sizes.padded_tokens;
    float* state = work.states + row * work.sizes.state_floats();
    const int64_t begin = seen.begin / (2 * kLanes) * (2 * kLanes);
    const int64_t end = (seen.end + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes);
    const F cap = _mm512_set1_ps(work.args.soft_cap * kBf16ScoreUnit);
    const F nothing = _mm512_set1_ps(-INFINITY);
    F largest = nothing;
    for (int64_t i = begin; i < end; i += kLanes) {
      F s = S::Load(scores + i);
      const bool cut = i < seen.begin || i + kLanes > seen.end;
      if (work.args.soft_cap > 0) s = _mm512_mul_ps(cap, Tanh<S>(_mm512_div_ps(s, cap)));
      if (cut) s = S::Within(s, nothing, Most(seen.begin - i, 0), Most(seen.end - i, 0));
      if (cut || work.args.soft_cap > 0) S::Store(scores + i, s);
      largest = S::Max(s, largest);
    }
    const float top = S::Largest(largest);
    // Scores of -inf alone weigh nothing.
    const F offset = _mm512_set1_ps(top == -INFINITY ? 0 : top);
    const V ones = _mm512_set1_epi16(0x3f80);
    F sums = _mm512_setzero_ps();
    for (int64_t i = begin; i < end; i += 2 * kLanes) {
      const F low = Exp2(_mm512_sub_ps(S::Load(scores + i), offset));
      const F high = Exp2(_mm512_sub_ps(S::Load(scores + i + kLanes), offset));
      const V weights = (V)_mm512_cvtne2ps_pbh(high, low);
      sums = Fma(weights, ones, sums);
      Store(reinterpret_cast<BF16Pair*>(scores) + i / kPacked, weights);
    }
    state[work.sizes.padded_dim] = top * (1 / kBf16ScoreUnit);
    state[work.sizes.padded_dim + 1] = S::Sum(sums);
  }
};

}  // namespace
}  // namespace interlace
