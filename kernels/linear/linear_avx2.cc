// The order of every sum, whatever the number of tokens: lane j of one accumulator takes the elements k with k % 8 == j
// in ascending order, each by one fused multiply-add; the tail of k counts as zeros up to a multiple of 32; SumLanes
// adds the lanes. One token reads the weights straight from their blocks; several share a dequantised panel.
#include <string.h>

#include <cmath>
#include <vector>

#include "common/check.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/variants.h"

namespace interlace::avx2 {
namespace {

constexpr int64_t kStep = 32;         // elements unpacked at once: a quantised block
constexpr int kRowTile = 4;           // weight rows that share a pass over x
constexpr int kTokenTile = 3;         // 4 x 3 accumulators fill the registers
constexpr int64_t kPanel = 1024;      // elements of k dequantised at once: 4 rows are 16 KiB
constexpr int64_t kTokenBlock = 96;   // tokens that share a dequantised panel
constexpr int64_t kRowsPerTask = 16;  // a cache line of y
constexpr int64_t kPrefetchBytes = 4096;
constexpr int kVectors = kStep / kLanes;

// The first two F16 of a block as lanes 0 and 1; every quantised block has 4 bytes to read.
[[gnu::always_inline]] inline __m128 LeadingF16s(const uint8_t* at) {
  int32_t bits;
  memcpy(&bits, at, sizeof bits);
  return _mm_cvtph_ps(_mm_cvtsi32_si128(bits));
}
[[gnu::always_inline]] inline __m128i Load8(const uint8_t* at) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
}
[[gnu::always_inline]] inline __m128i Load16(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

// Low halves of 16 bytes, then high halves, as 32 floats.
[[gnu::always_inline]] inline void UnpackHalves(const uint8_t* at, __m256 out[kVectors]) {
  const __m256i mask = _mm256_set1_epi32(15);
  for (int i = 0; i < 2; ++i) {
    const __m256i bytes = _mm256_cvtepu8_epi32(Load8(at + 8 * i));
    out[i] = _mm256_cvtepi32_ps(_mm256_and_si256(bytes, mask));
    out[i + 2] = _mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
  }
}

// One struct per weight type: kBytes of kStep elements, and their values (kernels/dequantise.h).
struct F32 {
  static constexpr int64_t kBytes = 4 * kStep;
  [[gnu::always_inline]] static inline void Unpack(const uint8_t* at, __m256 out[kVectors]) {
    for (int i = 0; i < kVectors; ++i) out[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(at) + kLanes * i);
  }
};
struct F16 {
  static constexpr int64_t kBytes = 2 * kStep;
  [[gnu::always_inline]] static inline void Unpack(const uint8_t* at, __m256 out[kVectors]) {
    for (int i = 0; i < kVectors; ++i) out[i] = _mm256_cvtph_ps(Load16(at + 16 * i));
  }
};
struct BF16 {
  static constexpr int64_t kBytes = 2 * kStep;
  [[gnu::always_inline]] static inline void Unpack(const uint8_t* at, __m256 out[kVectors]) {
    for (int i = 0; i < kVectors; ++i) {
      out[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(Load16(at + 16 * i)), 16));
    }
  }
};
struct Q8_0 {
  static constexpr int64_t kBytes = 34;
  [[gnu::always_inline]] static inline void Unpack(const uint8_t* at, __m256 out[kVectors]) {
    const __m256 scale = _mm256_broadcastss_ps(LeadingF16s(at));
    for (int i = 0; i < kVectors; ++i) {
      const __m256i quanta = _mm256_cvtepi8_epi32(Load8(at + 2 + 8 * i));
      out[i] = _mm256_mul_ps(_mm256_cvtepi32_ps(quanta), scale);
    }
  }
};
struct Q4_0 {
  static constexpr int64_t kBytes = 18;
  [[gnu::always_inline]] static inline void Unpack(const uint8_t* at, __m256 out[kVectors]) {
    const __m256 scale = _mm256_broadcastss_ps(LeadingF16s(at));
    UnpackHalves(at + 2, out);
    for (int i = 0; i < kVectors; ++i) {
      out[i] = _mm256_mul_ps(_mm256_sub_ps(out[i], _mm256_set1_ps(8)), scale);
    }
  }
};
struct Q4_1 {
  static constexpr int64_t kBytes = 20;
  [[gnu::always_inline]] static inline void Unpack(const uint8_t* at, __m256 out[kVectors]) {
    const __m128 pair = LeadingF16s(at);
    const __m256 scale = _mm256_broadcastss_ps(pair);
    const __m256 minimum = _mm256_broadcastss_ps(_mm_movehdup_ps(pair));
    UnpackHalves(at + 4, out);
    // scale * quantum is exact, so the fused form rounds as the plain one does.
    for (int i = 0; i < kVectors; ++i) out[i] = _mm256_fmadd_ps(out[i], scale, minimum);
  }
};

// Unpacks `count` < kStep elements and zeros up to kStep. Quantised rows have no tail.
template <typename W>
void UnpackTail(const uint8_t* at, int64_t count, __m256 out[kVectors]) {
  uint8_t padded[W::kBytes] = {};
  memcpy(padded, at, static_cast<size_t>(W::kBytes / kStep * count));
  W::Unpack(padded, out);
}

struct Call {
  const float* x;  // [tokens, k]
  const uint8_t* w;
  float* y;  // [tokens, rows]
  int64_t tokens;
  int64_t k;
  int64_t rows;
  int64_t row_bytes;
  bool accumulate;
};

// Writes y[t, r .. r + R).
template <int R>
[[gnu::always_inline]] inline void StoreSums(const Call& call, int64_t t, int64_t r, const __m256* sums) {
  float* y = call.y + t * call.rows + r;
  if constexpr (R == 4) {
    __m128 sum = SumLanes4(sums[0], sums[1], sums[2], sums[3]);
    if (call.accumulate) sum = _mm_add_ps(_mm_loadu_ps(y), sum);
    _mm_storeu_ps(y, sum);
  } else {
    for (int i = 0; i < R; ++i) {
      const float sum = SumLanes(sums[i]);
      y[i] = call.accumulate ? y[i] + sum : sum;
    }
  }
}

// --- one token ---

// R rows against x. x_tail holds the last k % 32 elements of x, padded.
template <typename W, int R>
[[gnu::always_inline]] inline void DotRows(const Call& call, int64_t r, const float* x_tail) {
  const uint8_t* w[R];
  __m256 sums[R];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    w[i] = call.w + (r + i) * call.row_bytes;
    sums[i] = _mm256_setzero_ps();
  }
  const int64_t steps = call.k / kStep;
  for (int64_t s = 0; s < steps; ++s) {
    const float* x = call.x + s * kStep;
    // The rows are one stretch of memory, read in R places: the hardware does not see a stream.
    const uint8_t* ahead = w[0] + s * R * W::kBytes + kPrefetchBytes;
    for (int64_t i = 0; i < R * W::kBytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(ahead + i), _MM_HINT_T0);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      __m256 values[kVectors];
      W::Unpack(w[i] + s * W::kBytes, values);
      for (int v = 0; v < kVectors; ++v) {
        sums[i] = _mm256_fmadd_ps(values[v], _mm256_loadu_ps(x + kLanes * v), sums[i]);
      }
    }
  }
  if (const int64_t left = call.k % kStep; left != 0) {
    for (int i = 0; i < R; ++i) {
      __m256 values[kVectors];
      UnpackTail<W>(w[i] + steps * W::kBytes, left, values);
      for (int v = 0; v < kVectors; ++v) {
        sums[i] = _mm256_fmadd_ps(values[v], _mm256_load_ps(x_tail + kLanes * v), sums[i]);
      }
    }
  }
  StoreSums<R>(call, 0, r, sums);
}

template <typename W>
void OneToken(const Call& call, int64_t begin, int64_t end) {
  alignas(32) float x_tail[kStep] = {};
  const int64_t left = call.k % kStep;
  memcpy(x_tail, call.x + call.k - left, static_cast<size_t>(left) * sizeof(float));
  int64_t r = begin;
  for (; r + kRowTile <= end; r += kRowTile) DotRows<W, kRowTile>(call, r, x_tail);
  for (; r < end; ++r) DotRows<W, 1>(call, r, x_tail);
}

// --- several tokens ---

// A stretch of k: `count` elements (a multiple of kStep) of `rows` weight rows, and where x has them.
struct Panel {
  const float* w;  // [kRowTile, kPanel]
  const float* x;  // x[t, first k] at x + t * x_stride
  int64_t x_stride;
  int64_t count;
};

// sums[t][r] += the panel's share, for T tokens and R rows; sums: [T][kRowTile] vectors.
template <int R, int T>
[[gnu::always_inline]] inline void Tile(const Panel& panel, int64_t t0, __m256* sums) {
  __m256 acc[T][R];
  const float* x[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    x[t] = panel.x + (t0 + t) * panel.x_stride;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) acc[t][r] = sums[t * kRowTile + r];
  }
  for (int64_t i = 0; i < panel.count; i += kLanes) {
    __m256 xs[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) xs[t] = _mm256_loadu_ps(x[t] + i);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256 w = _mm256_load_ps(panel.w + r * kPanel + i);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) acc[t][r] = _mm256_fmadd_ps(w, xs[t], acc[t][r]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sums[t * kRowTile + r] = acc[t][r];
  }
}

template <int R>
void MultiplyPanel(const Panel& panel, int64_t tokens, __m256* sums) {
  int64_t t = 0;
  for (; t + kTokenTile <= tokens; t += kTokenTile) Tile<R, kTokenTile>(panel, t, sums + t * kRowTile);
  if (tokens - t == 2) Tile<R, 2>(panel, t, sums + t * kRowTile);
  if (tokens - t == 1) Tile<R, 1>(panel, t, sums + t * kRowTile);
}

// Elements [k0, k0 + count) of rows [r, r + R), padded with zeros to a multiple of kStep.
template <typename W, int R>
void UnpackPanel(const Call& call, int64_t r, int64_t k0, int64_t count, float* panel) {
  for (int i = 0; i < R; ++i) {
    const uint8_t* at = call.w + (r + i) * call.row_bytes + k0 / kStep * W::kBytes;
    float* out = panel + i * kPanel;
    for (int64_t e = 0; e < count; e += kStep, at += W::kBytes) {
      __m256 values[kVectors];
      _mm_prefetch(reinterpret_cast<const char*>(at + kPrefetchBytes), _MM_HINT_T0);
      if (count - e >= kStep) {
        W::Unpack(at, values);
      } else {
        UnpackTail<W>(at, count - e, values);
      }
      for (int v = 0; v < kVectors; ++v) _mm256_store_ps(out + e + kLanes * v, values[v]);
    }
  }
}

// Scratch of one thread, on its stack.
struct Scratch {
  alignas(64) float panel[kRowTile * kPanel];
  alignas(64) float x_tail[kTokenBlock * kStep];
  alignas(64) __m256 sums[kTokenBlock * kRowTile];
};

// Rows [r, r + R) for tokens [t0, t0 + tokens).
template <typename W, int R>
void MultiplyRows(const Call& call, int64_t t0, int64_t tokens, int64_t r, Scratch& scratch) {
  for (int64_t i = 0; i < tokens * kRowTile; ++i) scratch.sums[i] = _mm256_setzero_ps();
  const int64_t whole = call.k - call.k % kStep;
  for (int64_t k0 = 0; k0 < whole; k0 += kPanel) {
    const int64_t count = whole - k0 < kPanel ? whole - k0 : kPanel;
    UnpackPanel<W, R>(call, r, k0, count, scratch.panel);
    MultiplyPanel<R>({scratch.panel, call.x + t0 * call.k + k0, call.k, count}, tokens, scratch.sums);
  }
  if (whole < call.k) {
    UnpackPanel<W, R>(call, r, whole, call.k - whole, scratch.panel);
    MultiplyPanel<R>({scratch.panel, scratch.x_tail, kStep, kStep}, tokens, scratch.sums);
  }
  for (int64_t t = 0; t < tokens; ++t) StoreSums<R>(call, t0 + t, r, scratch.sums + t * kRowTile);
}

template <typename W>
void ManyTokens(const Call& call, int64_t begin, int64_t end) {
  Scratch scratch;
  const int64_t left = call.k % kStep;
  for (int64_t t0 = 0; t0 < call.tokens; t0 += kTokenBlock) {
    const int64_t tokens = call.tokens - t0 < kTokenBlock ? call.tokens - t0 : kTokenBlock;
    if (left != 0) {
      memset(scratch.x_tail, 0, sizeof scratch.x_tail);
      for (int64_t t = 0; t < tokens; ++t) {
        memcpy(scratch.x_tail + t * kStep, call.x + (t0 + t + 1) * call.k - left,
               static_cast<size_t>(left) * sizeof(float));
      }
    }
    int64_t r = begin;
    for (; r + kRowTile <= end; r += kRowTile) MultiplyRows<W, kRowTile>(call, t0, tokens, r, scratch);
    for (; r < end; ++r) MultiplyRows<W, 1>(call, t0, tokens, r, scratch);
  }
}

template <typename W>
void Rows(const Call& call, int64_t begin, int64_t end) {
  if (call.tokens == 1) {
    OneToken<W>(call, begin, end);
  } else {
    ManyTokens<W>(call, begin, end);
  }
}

void Multiply(const Tensor& input, const LinearOut& out, OpContext on) {
  if (input.rows == 0) return;
  const Call call{.x = input.f32(),
                  .w = reinterpret_cast<const uint8_t*>(out.w.data),
                  .y = out.y.f32(),
                  .tokens = input.rows,
                  .k = out.w.k,
                  .rows = out.w.rows,
                  .row_bytes = RowBytes(out.w.dtype, out.w.k),
                  .accumulate = out.accumulate};
  void (*rows)(const Call&, int64_t, int64_t) = nullptr;
  switch (out.w.dtype) {
    case DType::kF32:
      rows = &Rows<F32>;
      break;
    case DType::kF16:
      rows = &Rows<F16>;
      break;
    case DType::kBF16:
      rows = &Rows<BF16>;
      break;
    case DType::kQ8_0:
      rows = &Rows<Q8_0>;
      break;
    case DType::kQ4_0:
      rows = &Rows<Q4_0>;
      break;
    case DType::kQ4_1:
      rows = &Rows<Q4_1>;
      break;
    default:
      CHECK_MSG(false, "not a weight type of this table");
  }
  on.team().ParallelFor(call.rows, kRowsPerTask, [&](int64_t begin, int64_t end) { rows(call, begin, end); });
  if (out.bias == nullptr) return;
  for (int64_t t = 0; t < call.tokens; ++t) {
    for (int64_t r = 0; r < call.rows; ++r) out.y.f32_row(t)[r] += out.bias[r];
  }
}

}  // namespace

void Linear(const LinearArgs& args, OpContext on) {
  for (const LinearOut& out : args.outs) Multiply(args.x, out, on);
}

void GatedLinear(const GatedLinearArgs& args, OpContext on) {
  std::vector<float> up(args.out.rows * args.out.cols);
  const Tensor ups{up.data(), DType::kF32, args.out.rows, args.out.cols};
  Multiply(args.x, {args.out, args.gate}, on);
  Multiply(args.x, {ups, args.up}, on);
  float* out = args.out.f32();
  for (size_t i = 0; i < up.size(); ++i) {
    const float v = out[i];
    const float act = args.kind == GateKind::kSilu
                          ? v / (1 + std::exp(-v))
                          : 0.5f * v * (1 + std::tanh(0.7978845608028654f * (v + 0.044715f * v * v * v)));
    out[i] = act * up[i];
  }
}

}  // namespace interlace::avx2
