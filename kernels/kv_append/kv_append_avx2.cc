// K is transposed eight tokens by eight elements where eight neighbouring slots are written, which a block's size makes
// the rule for a prompt; else element by element. Rows are independent, so nothing depends on the cutting.
#include <cstring>

#include "common/check.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx2 {
namespace {

constexpr int64_t kTokensPerTask = 32;  // fewer are not worth a barrier

// Rounds eight values and stores them. `scale` is used by int8_t alone.
[[gnu::always_inline]] inline void StoreRounded(float* to, __m256 x, __m256 /*scale*/) { _mm256_storeu_ps(to, x); }
[[gnu::always_inline]] inline void StoreRounded(F16Bits* to, __m256 x, __m256 /*scale*/) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
[[gnu::always_inline]] inline void StoreRounded(BF16Bits* to, __m256 x, __m256 /*scale*/) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  const __m256 chosen = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan);
  const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(chosen), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}
[[gnu::always_inline]] inline void StoreRounded(int8_t* to, __m256 x, __m256 scale) {
  // A head of zeros has scale 0; one with a NaN or infinity has such a scale, and reads back as NaN whatever its codes.
  const __m256 usable = _mm256_and_ps(_mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_GT_OQ),
                                      _mm256_cmp_ps(scale, _mm256_set1_ps(__builtin_inff()), _CMP_LT_OQ));
  __m256 code = _mm256_and_ps(_mm256_div_ps(x, scale), usable);
  code = _mm256_min_ps(_mm256_max_ps(code, _mm256_set1_ps(-127)), _mm256_set1_ps(127));
  const __m256i words = _mm256_cvtps_epi32(code);
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32(words, words), 0x08);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_castsi256_si128(halves));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), bytes);
}

// The largest magnitude / 127; NaN if there is one. Requires: head_dim is a multiple of 8.
float ScaleOf(const float* head, int64_t head_dim) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 largest = _mm256_setzero_ps();
  __m256 nan = _mm256_setzero_ps();
  for (int64_t d = 0; d < head_dim; d += kLanes) {
    const __m256 x = _mm256_loadu_ps(head + d);
    largest = _mm256_max_ps(_mm256_andnot_ps(sign, x), largest);
    nan = _mm256_or_ps(nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  if (_mm256_movemask_ps(nan) != 0) return __builtin_nanf("");
  return MaxLanes(largest) / 127;
}

[[gnu::always_inline]] inline void Transpose8(__m256 r[8]) {
  __m256 a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xEE);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xEE);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

template <class E>
struct Store {
  const KvBlockShape& shape;
  E* k;
  E* v;
  float* k_scales;
  float* v_scales;

  Store(const KvBlockShape& of, std::byte* block) : shape(of) {
    k = reinterpret_cast<E*>(block);
    v = k + of.k_elements();
    k_scales = reinterpret_cast<float*>(v + of.k_elements());
    v_scales = k_scales + int64_t{of.block_tokens} * of.kv_heads;
  }
  static constexpr bool kScaled = sizeof(E) == 1;

  void V(const float* head_row, int64_t head, int64_t slot) const {
    const int64_t at = head * shape.block_tokens + slot;
    float scale = 0;
    if constexpr (kScaled) v_scales[at] = scale = ScaleOf(head_row, shape.head_dim);
    const __m256 scales = _mm256_set1_ps(scale);
    E* to = v + at * shape.head_dim;
    for (int64_t d = 0; d < shape.head_dim; d += kLanes) StoreRounded(to + d, _mm256_loadu_ps(head_row + d), scales);
  }

  // One token.
  void K(const float* head_row, int64_t head, int64_t slot) const {
    float scale = 0;
    if constexpr (kScaled) k_scales[head * shape.block_tokens + slot] = scale = ScaleOf(head_row, shape.head_dim);
    const __m256 scales = _mm256_set1_ps(scale);
    E* to = k + head * shape.head_dim * shape.block_tokens + slot;
    for (int64_t d = 0; d < shape.head_dim; d += kLanes) {
      E rounded[kLanes];
      StoreRounded(rounded, _mm256_loadu_ps(head_row + d), scales);
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) to[(d + i) * shape.block_tokens] = rounded[i];
    }
  }

  // Eight tokens, `stride` floats apart, in neighbouring slots.
  void K8(const float* head_rows, int64_t stride, int64_t head, int64_t slot) const {
    __m256 scales = _mm256_setzero_ps();
    if constexpr (kScaled) {
      float* at = k_scales + head * shape.block_tokens + slot;
      for (int t = 0; t < kLanes; ++t) at[t] = ScaleOf(head_rows + t * stride, shape.head_dim);
      scales = _mm256_loadu_ps(at);
    }
    E* to = k + head * shape.head_dim * shape.block_tokens + slot;
    for (int64_t d = 0; d < shape.head_dim; d += kLanes) {
      __m256 rows[kLanes];
#pragma GCC unroll 8
      for (int t = 0; t < kLanes; ++t) rows[t] = _mm256_loadu_ps(head_rows + t * stride + d);
      Transpose8(rows);
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) StoreRounded(to + (d + i) * shape.block_tokens, rows[i], scales);
    }
  }
};

// Tokens [begin, end) of a sequence's rows.
template <class E>
void AppendTokens(const KvAppendArgs& args, const SequenceRows& s, int64_t begin, int64_t end) {
  const KvBlockShape& shape = args.shape;
  const int64_t width = int64_t{shape.kv_heads} * shape.head_dim;
  for (int64_t t = begin; t < end;) {
    const int64_t position = s.start + t;
    const int64_t slot = position % shape.block_tokens;
    const Store<E> store(shape, s.blocks[position / shape.block_tokens]);
    const float* k = args.k.f32_row(s.row + t);
    const float* v = args.v.f32_row(s.row + t);
    const int64_t tokens = slot % kLanes == 0 && end - t >= kLanes ? kLanes : 1;
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      const int64_t at = head * shape.head_dim;
      if (tokens == kLanes)
        store.K8(k + at, width, head, slot);
      else
        store.K(k + at, head, slot);
      for (int64_t i = 0; i < tokens; ++i) store.V(v + i * width + at, head, slot + i);
    }
    t += tokens;
  }
}

using Append = void (*)(const KvAppendArgs& args, const SequenceRows& s, int64_t begin, int64_t end);

Append AppendOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return &AppendTokens<float>;
    case DType::kF16:
      return &AppendTokens<F16Bits>;
    case DType::kBF16:
      return &AppendTokens<BF16Bits>;
    case DType::kI8:
      return &AppendTokens<int8_t>;
    default:
      CHECK_MSG(false, "not a type of the KV cache");
      return nullptr;
  }
}

}  // namespace

void KvAppend(const KvAppendArgs& args, OpContext on) {
  CHECK(args.shape.head_dim % kLanes == 0 && args.shape.block_tokens % kLanes == 0);
  const Append append = AppendOf(args.shape.dtype);
  int64_t tokens = 0;
  for (const SequenceRows& s : args.sequences) tokens += s.rows;
  // [begin, end) counts the tokens of all sequences, one after the other.
  on.team().ParallelFor(tokens, kTokensPerTask, [&](int64_t begin, int64_t end) {
    int64_t first = 0;
    for (const SequenceRows& s : args.sequences) {
      const int64_t from = begin > first ? begin - first : 0;
      const int64_t to = end - first < s.rows ? end - first : s.rows;
      if (from < to) append(args, s, from, to);
      first += s.rows;
    }
  });
}

}  // namespace interlace::avx2
