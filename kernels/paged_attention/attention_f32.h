// Products in F32, whatever K and V are stored as: the P of attention_split.h. Only paged_attention_<isa>.cc files
// include this; everything has internal linkage.
#pragma once

#include "kernels/paged_attention/attention_split.h"

namespace interlace {
namespace {

template <class S>
struct F32Products {
  using F = typename S::F;
  using V = F;
  using Query = float;
  using Panel = float;
  using Work = AttentionWork<float>;
  static constexpr int kLanes = S::kLanes;
  static constexpr int kPacked = 1;
  static constexpr int kSubChunks = 4;
  static constexpr int64_t kChunksAhead = 4;

  static constexpr int ChunksAtOnce(int rows) { return kLanes == kChunk ? 4 : rows <= 3 ? 2 : 1; }

  template <class E>
  [[gnu::always_inline]] static V Load(const E* p, int64_t /*stride*/) {
    return S::Load(p);
  }
  template <int N, class E>
  [[gnu::always_inline]] static void LoadSide(const E* p, int64_t /*stride*/, V (&to)[N]) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) to[n] = S::Load(p + n * kLanes);
  }
  template <class E>
  [[gnu::always_inline]] static const E* Load8(const E* p, int64_t /*stride*/) {
    return p;
  }
  [[gnu::always_inline]] static void Store(float* p, V v) { S::Store(p, v); }
  template <class E>
  [[gnu::always_inline]] static void Store8(float* to, const E* from) {
    S::Unpack8(from, to);
  }
  [[gnu::always_inline]] static V Set1(float x) { return S::Set1(x); }
  [[gnu::always_inline]] static F Fma(V a, V b, F c) { return S::Fma(a, b, c); }
  [[gnu::always_inline]] static V Only(V v, int64_t /*low*/, int64_t /*high*/) { return v; }

  template <class Body>
  [[gnu::always_inline]] static void WithStored(DType dtype, Body body) {
    switch (dtype) {
      case DType::kF16:
        return body.template operator()<F16Bits>();
      case DType::kBF16:
        return body.template operator()<BF16Bits>();
      case DType::kI8:
        return body.template operator()<int8_t>();
      default:
        return body.template operator()<float>();
    }
  }

  static void PointAtQueries(Work& work, float* /*room*/) {
    for (int64_t row = 0; row < work.rows; ++row) work.q[row] = work.QueryOf(row);
  }

  template <class E>
  static void Softmax(const Work& work, const AttentionView<E>& view, int64_t row) {
    const VisibleRange seen = work.visible[row];
    float* scores = work.scores + row * work.sizes.padded_tokens;
    float* state = work.states + row * work.sizes.state_floats();
    const int64_t begin = seen.begin / kLanes * kLanes;
    const F scale = S::Set1(work.args.scale);
    const F cap = S::Set1(work.args.soft_cap);
    const F nothing = S::Set1(-INFINITY);
    F largest = nothing;
    for (int64_t i = begin; i < seen.end; i += kLanes) {
      F s = S::Load(scores + i);
      if (work.scaled) s = S::Mul(s, S::Load(view.k_scales[i / kChunk] + i % kChunk));
      s = S::Mul(s, scale);
      if (work.args.soft_cap > 0) s = S::Mul(cap, Tanh<S>(S::Div(s, cap)));
      if (i < seen.begin || i + kLanes > seen.end) s = S::Within(s, nothing, Most(seen.begin - i, 0), seen.end - i);
      S::Store(scores + i, s);
      largest = S::Max(s, largest);
    }
    const float top = S::Largest(largest);
    // Scores of -inf alone weigh nothing.
    const F offset = S::Set1(top == -INFINITY ? 0 : top);
    F sums = S::Zero();
    for (int64_t i = begin; i < seen.end; i += kLanes) {
      F weight = S::ExpOf(S::Sub(S::Load(scores + i), offset));
      sums = S::Add(sums, weight);
      if (work.scaled) weight = S::Mul(weight, S::Load(view.v_scales[i / kChunk] + i % kChunk));
      S::Store(scores + i, weight);
    }
    state[work.sizes.padded_dim] = top;
    state[work.sizes.padded_dim + 1] = S::Sum(sums);
  }
};

}  // namespace
}  // namespace interlace
