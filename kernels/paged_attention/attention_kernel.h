// The arithmetic of paged_attention for any vector width. Only paged_attention_<isa>.cc files include this, with S the
// Simd of their instruction set; everything has internal linkage.
//
// Per row, whatever shares its registers: a score is one chain of fused multiply-adds over ascending d; within a split,
// sums of weights go lane by lane and outputs by ascending position; a position that the row does not see is left out.
// So the bits of a row depend on its own inputs alone.
#pragma once

#include <math.h>

#include "kernels/cpu/stored.h"
#include "kernels/paged_attention/attention_tasks.h"

namespace interlace {
namespace {

constexpr int kChunk = 16;  // positions that one pointer stands for
constexpr int kMaxChunks = 512 / kChunk;
constexpr int kSubChunks = 4;        // of a pass whose K or V stay in the first-level cache
constexpr int64_t kChunksAhead = 4;  // being fetched
constexpr int kMaxTileRows = 96;
constexpr int kGroupRows = 6;   // rows that share registers
constexpr int kDirectRows = 8;  // at most, to read blocks in place rather than unpack them
constexpr int64_t kLineBytes = 64;

[[maybe_unused, gnu::always_inline]] inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
[[maybe_unused, gnu::always_inline]] inline int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

template <class S>
struct Attention {
  using F = typename S::F;
  static constexpr int kLanes = S::kLanes;
  static constexpr int kVectorsPerChunk = kChunk / kLanes;

  // K and V of one split and KV head, as stored or unpacked.
  template <class E>
  struct View {
    const E* k[kMaxChunks];  // element d of position i of a chunk: [d * k_stride + i]
    const E* v[kMaxChunks];  // [i * v_stride + d]
    int64_t k_stride;
    int64_t v_stride;
    const float* k_scales[kMaxChunks];  // int8_t only
    const float* v_scales[kMaxChunks];
    // What to fetch while chunk c is at work; as many bytes as the chunk has.
    const char* k_ahead[kMaxChunks];
    const char* v_ahead[kMaxChunks];
  };

  // A tile on its way through one split.
  struct Work {
    const PagedAttentionArgs& args;
    const AttentionSizes& sizes;
    const AttentionTile& tile;
    int64_t rows;
    bool scaled;
    const float* q[kMaxTileRows];
    VisibleRange visible[kMaxTileRows];
    int64_t first_chunk, end_chunk;  // that any row sees
    AttentionNext next;
    float* scores;  // [rows][padded_tokens]
    float* states;  // [rows][state_floats]: where this split's go
  };

  // ---- Scores: M rows, C chunks at a time.
  template <int M, int C, bool kAhead, class E>
  [[gnu::always_inline]] static void ScoreChunks(const float* const* q, const View<E>& view, int64_t c,
                                                 int64_t head_dim, float* scores, int64_t stride) {
    constexpr int kVectors = C * kVectorsPerChunk;
    constexpr int64_t kBytesPerD = kChunk * sizeof(E);
    F acc[M][kVectors];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[m][v] = S::Zero();
    }
    const E* k[C];
    const char* ahead[C];
#pragma GCC unroll 8
    for (int i = 0; i < C; ++i) {
      k[i] = view.k[c + i];
      ahead[i] = kAhead ? view.k_ahead[c + i] : nullptr;
    }
    const int64_t k_stride = view.k_stride;
    for (int64_t d = 0; d < head_dim; ++d) {
      F ks[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        ks[v] = S::Load(k[v / kVectorsPerChunk] + d * k_stride + v % kVectorsPerChunk * kLanes);
      }
      if (kAhead && d * kBytesPerD % kLineBytes == 0) {
#pragma GCC unroll 8
        for (int i = 0; i < C; ++i) __builtin_prefetch(ahead[i] + d * kBytesPerD, 0, 2);
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const F broadcast = S::Set1(q[m][d]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[m][v] = S::Fma(broadcast, ks[v], acc[m][v]);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) S::Store(scores + m * stride + c * kChunk + v * kLanes, acc[m][v]);
    }
  }

  template <int M, bool kAhead, class E>
  static void GroupScores(const Work& work, const View<E>& view, int64_t row, int64_t begin, int64_t end) {
    constexpr int C = kLanes == kChunk ? kSubChunks : M <= 3 ? 2 : 1;
    const float* const* q = work.q + row;
    float* scores = work.scores + row * work.sizes.padded_tokens;
    const int64_t head_dim = work.args.shape.head_dim;
    int64_t c = begin;
    for (; c + C <= end; c += C) {
      ScoreChunks<M, C, kAhead>(q, view, c, head_dim, scores, work.sizes.padded_tokens);
    }
    for (; c < end; ++c) ScoreChunks<M, 1, kAhead>(q, view, c, head_dim, scores, work.sizes.padded_tokens);
  }

  // ---- Softmax of one row over what it sees of the split.
  // tanh to about one unit in the last place (Cephes' tanhf).
  [[gnu::always_inline]] static F Tanh(F x) {
    const F z = S::Mul(x, x);
    F p = S::Set1(-5.70498872745e-3f);
    p = S::Fma(p, z, S::Set1(2.06390887954e-2f));
    p = S::Fma(p, z, S::Set1(-5.37397155531e-2f));
    p = S::Fma(p, z, S::Set1(1.33314422036e-1f));
    p = S::Fma(p, z, S::Set1(-3.33332819422e-1f));
    const F near = S::Fma(S::Mul(p, z), x, x);
    const F size = S::Abs(x);
    const F one = S::Set1(1);
    const F far = S::Sub(one, S::Div(S::Set1(2), S::Add(S::ExpOf(S::Add(size, size)), one)));
    return S::Below(size, S::Set1(0.625f), near, S::WithSignOf(far, x));
  }

  template <class E>
  static void Softmax(const Work& work, const View<E>& view, int64_t row) {
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
      if (work.args.soft_cap > 0) s = S::Mul(cap, Tanh(S::Div(s, cap)));
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

  // ---- Values: M rows, N vectors of a head's elements, chunks [begin, end).
  template <int M, int N, class E>
  [[gnu::always_inline]] static void AddPosition(int64_t j, int m, const View<E>& view, int64_t d, const float* weights,
                                                 F (&acc)[M][N]) {
    const F weight = S::Set1(weights[j]);
    const E* v = view.v[j / kChunk] + j % kChunk * view.v_stride + d;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[m][n] = S::Fma(weight, S::Load(v + n * kLanes), acc[m][n]);
  }

  template <int M, int N, bool kAhead, class E>
  [[gnu::always_inline]] static void ValueVectors(const Work& work, const View<E>& view, int64_t row, int64_t begin,
                                                  int64_t end, int64_t d, bool accumulate) {
    const int64_t stride = work.sizes.padded_tokens;
    const int64_t state = work.sizes.state_floats();
    const float* weights = work.scores + row * stride;
    float* outputs = work.states + row * state + d;
    F acc[M][N];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        acc[m][n] = accumulate ? S::Load(outputs + m * state + n * kLanes) : S::Zero();
      }
    }
    // Positions that all rows see, between those that some see.
    int64_t low[M], high[M];
    int64_t common_low = begin * kChunk, common_high = end * kChunk;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      low[m] = Most(work.visible[row + m].begin, begin * kChunk);
      high[m] = Least(work.visible[row + m].end, end * kChunk);
      common_low = Most(common_low, low[m]);
      common_high = Least(common_high, high[m]);
    }
    if (common_high <= common_low) common_low = common_high = end * kChunk;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const int64_t stop = Least(high[m], common_low);
      for (int64_t j = low[m]; j < stop; ++j) AddPosition(j, m, view, d, weights + m * stride, acc);
    }
    const int64_t v_stride = view.v_stride;
    for (int64_t j = common_low; j < common_high;) {
      const int64_t c = j / kChunk;
      const int64_t stop = Least(common_high, (c + 1) * kChunk);
      const E* v = view.v[c] + j % kChunk * v_stride + d;
      const char* ahead =
          kAhead ? view.v_ahead[c] + (j % kChunk * v_stride + d) * static_cast<int64_t>(sizeof(E)) : nullptr;
      for (; j < stop; ++j, v += v_stride) {
        F vs[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) vs[n] = S::Load(v + n * kLanes);
        if (kAhead) {
#pragma GCC unroll 8
          for (int64_t b = 0; b < N * kLanes * static_cast<int64_t>(sizeof(E)); b += kLineBytes) {
            __builtin_prefetch(ahead + b, 0, 2);
          }
          ahead += v_stride * static_cast<int64_t>(sizeof(E));
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const F weight = S::Set1(weights[m * stride + j]);
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) acc[m][n] = S::Fma(weight, vs[n], acc[m][n]);
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      for (int64_t j = Most(low[m], common_high); j < high[m]; ++j) {
        AddPosition(j, m, view, d, weights + m * stride, acc);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) S::Store(outputs + m * state + n * kLanes, acc[m][n]);
    }
  }

  template <int M, bool kAhead, class E>
  static void GroupValues(const Work& work, const View<E>& view, int64_t row, int64_t begin, int64_t end,
                          bool accumulate) {
    constexpr int N = kLanes == kChunk || M <= 3 ? 4 : S::kWide;
    const int64_t width = work.sizes.padded_dim;
    int64_t d = 0;
    for (; d + N * kLanes <= width; d += N * kLanes) {
      ValueVectors<M, N, kAhead>(work, view, row, begin, end, d, accumulate);
    }
    for (; d < width; d += kLanes) ValueVectors<M, 1, kAhead>(work, view, row, begin, end, d, accumulate);
  }

  // Calls body(constant M) with 1 <= rows <= kGroupRows.
  template <class Body>
  [[gnu::always_inline]] static void WithRows(int64_t rows, Body body) {
    switch (rows) {
      case 1:
        return body.template operator()<1>();
      case 2:
        return body.template operator()<2>();
      case 3:
        return body.template operator()<3>();
      case 4:
        return body.template operator()<4>();
      case 5:
        return body.template operator()<5>();
      default:
        return body.template operator()<6>();
    }
  }

  // Calls body(row, rows) for groups of about equal size.
  template <class Body>
  [[gnu::always_inline]] static void ForGroups(int64_t rows, Body body) {
    const int64_t groups = (rows + kGroupRows - 1) / kGroupRows;
    const int64_t size = rows > kDirectRows ? kGroupRows : (rows + groups - 1) / groups;
    for (int64_t row = 0; row < rows; row += size) body(row, Least(size, rows - row));
  }

  template <bool kAhead, class E>
  static void AttendView(const Work& work, const View<E>& view) {
    const int64_t step = work.rows <= kGroupRows ? kMaxChunks : kSubChunks;
    for (int64_t sub = work.first_chunk; sub < work.end_chunk;) {
      const int64_t next = Least((sub / step + 1) * step, work.end_chunk);
      ForGroups(work.rows, [&](int64_t row, int64_t rows) {
        int64_t low = kMaxChunks * kChunk, high = 0;
        for (int64_t m = row; m < row + rows; ++m) {
          if (work.visible[m].end == 0) continue;
          low = Least(low, work.visible[m].begin);
          high = Most(high, work.visible[m].end);
        }
        const int64_t begin = Most(sub, low / kChunk), end = Least(next, (high + kChunk - 1) / kChunk);
        if (begin >= end) return;
        WithRows(rows, [&]<int M>() { GroupScores<M, kAhead>(work, view, row, begin, end); });
      });
      sub = next;
    }
    for (int64_t row = 0; row < work.rows; ++row) {
      if (work.visible[row].end > 0) Softmax(work, view, row);
    }
    for (int64_t sub = work.first_chunk; sub < work.end_chunk;) {
      const int64_t next = Least((sub / step + 1) * step, work.end_chunk);
      const bool accumulate = sub > work.first_chunk;
      ForGroups(work.rows, [&](int64_t row, int64_t rows) {
        WithRows(rows, [&]<int M>() { GroupValues<M, kAhead>(work, view, row, sub, next, accumulate); });
      });
      sub = next;
    }
  }

  // ---- Where K and V lie.
  template <class E>
  struct Block {
    const E* k;  // [head_dim][block_tokens]
    const E* v;  // [block_tokens][head_dim]
    const float* k_scales;
    const float* v_scales;
  };
  template <class E>
  [[gnu::always_inline]] static Block<E> BlockAt(const Work& work, int64_t position) {
    const KvBlockShape& shape = work.args.shape;
    const std::byte* block = work.tile.sequence->blocks[position / shape.block_tokens];
    const int64_t head = work.tile.kv_head * int64_t{shape.block_tokens};
    const auto* elements = reinterpret_cast<const E*>(block);
    const auto* scales = reinterpret_cast<const float*>(elements + 2 * shape.k_elements());
    return {elements + head * shape.head_dim, elements + shape.k_elements() + head * shape.head_dim, scales + head,
            scales + int64_t{shape.block_tokens} * shape.kv_heads + head};
  }

  template <class E>
  [[gnu::always_inline]] static const char* Bytes(const E* at) {
    return reinterpret_cast<const char*>(at);
  }

  // The K that `next` will read first, run by run; returns how many, at most `most`.
  template <class E>
  static int64_t FirstRunsOf(const Work& work, int64_t most, const char** runs) {
    if (work.next.tile == nullptr) return 0;
    const KvBlockShape& shape = work.args.shape;
    const AttentionTile& tile = *work.next.tile;
    const int64_t first = PositionOf(tile, 0);
    const int64_t seen = work.args.window > 0 && first + 1 > work.args.window ? first + 1 - work.args.window : 0;
    const int64_t begin = Most(seen, work.next.split * work.sizes.split_tokens) / kChunk * kChunk;
    int64_t count = 0;
    for (; count < most && begin + count * kChunk < first + tile.tokens; ++count) {
      const int64_t position = begin + count * kChunk;
      const auto* block = reinterpret_cast<const E*>(tile.sequence->blocks[position / shape.block_tokens]);
      const int64_t head = tile.kv_head * int64_t{shape.block_tokens};
      runs[count] = Bytes(block + (head + position % shape.block_tokens) * shape.head_dim);
    }
    return count;
  }

  // Reads blocks in place. Requires: whole chunks in a block, whole vectors in a head.
  template <class E>
  static void AttendInPlace(const Work& work, int64_t split_begin) {
    const KvBlockShape& shape = work.args.shape;
    View<E> view;
    view.k_stride = shape.block_tokens;
    view.v_stride = shape.head_dim;
    // Memory in the order in which it is read, in runs of a chunk's size: K, V, and the K that comes next. A block's K
    // is one run of memory, by place rather than by position.
    const char* runs[3 * kMaxChunks];
    const int64_t chunks = work.end_chunk - work.first_chunk;
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t c = work.first_chunk + i;
      const int64_t position = split_begin + c * kChunk;
      const int64_t slot = position % shape.block_tokens;
      const Block<E> block = BlockAt<E>(work, position);
      view.k[c] = block.k + slot;
      view.v[c] = block.v + slot * shape.head_dim;
      view.k_scales[c] = block.k_scales + slot;
      view.v_scales[c] = block.v_scales + slot;
      runs[i] = Bytes(block.k + slot * shape.head_dim);
      runs[chunks + i] = Bytes(view.v[c]);
    }
    // Blocks lie anywhere, so the hardware cannot foresee the next one.
    const int64_t distance = Most(kChunksAhead, shape.block_tokens / kChunk);
    const int64_t known = 2 * chunks + FirstRunsOf<E>(work, distance, runs + 2 * chunks);
    for (int64_t i = 0; i < chunks; ++i) {
      view.k_ahead[work.first_chunk + i] = runs[Least(i + distance, known - 1)];
      view.v_ahead[work.first_chunk + i] = runs[Least(chunks + i + distance, known - 1)];
    }
    AttendView<true>(work, view);
  }

  template <class E>
  static void UnpackK(const Work& work, const Block<E>& block, int64_t slot, int64_t positions, float* to) {
    const int64_t block_tokens = work.args.shape.block_tokens;
    const int64_t head_dim = work.args.shape.head_dim;
    const E* from = block.k + slot;
    if (positions == kChunk) {
      for (int64_t d = 0; d < head_dim; ++d) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectorsPerChunk; ++v) {
          S::Store(to + d * kSubChunks * kChunk + v * kLanes, S::Load(from + d * block_tokens + v * kLanes));
        }
      }
      return;
    }
    for (int64_t d = 0; d < head_dim; ++d) S::Unpack8(from + d * block_tokens, to + d * kSubChunks * kChunk);
  }

  // head_dim elements, then zeros up to padded_dim.
  template <class E>
  static void UnpackV(const Work& work, const E* from, float* to) {
    const int64_t head_dim = work.args.shape.head_dim;
    int64_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) S::Store(to + d, S::Load(from + d));
    for (; d + 8 <= head_dim; d += 8) S::Unpack8(from + d, to + d);
    for (; d < work.sizes.padded_dim; ++d) to[d] = 0;
  }

  // Unpacks the split to F32 first: worth it for many rows, and right for any shape. K goes to [sub][head_dim][64].
  template <class E>
  static void AttendUnpacked(const Work& work, int64_t split_begin, float* panels) {
    const KvBlockShape& shape = work.args.shape;
    const int64_t padded_dim = work.sizes.padded_dim;
    float* k = panels;
    float* v = k + work.sizes.padded_tokens * padded_dim;
    float* k_scales = v + work.sizes.padded_tokens * padded_dim;
    float* v_scales = k_scales + work.sizes.padded_tokens;
    int64_t low = kMaxChunks * kChunk, high = 0;
    for (int64_t m = 0; m < work.rows; ++m) {
      if (work.visible[m].end == 0) continue;
      low = Least(low, work.visible[m].begin);
      high = Most(high, work.visible[m].end);
    }
    View<float> view;
    view.k_stride = kSubChunks * kChunk;
    view.v_stride = padded_dim;
    for (int64_t c = work.first_chunk; c < work.end_chunk; ++c) {
      view.k[c] = k + c / kSubChunks * kSubChunks * kChunk * shape.head_dim + c % kSubChunks * kChunk;
      view.v[c] = v + c * kChunk * padded_dim;
      view.k_scales[c] = k_scales + c * kChunk;
      view.v_scales[c] = v_scales + c * kChunk;
      const int64_t unit = shape.block_tokens % kChunk == 0 ? kChunk : 8;
      for (int64_t i = c * kChunk; i < (c + 1) * kChunk; i += unit) {
        if (i >= high || i + unit <= low) continue;
        const int64_t slot = (split_begin + i) % shape.block_tokens;
        const Block<E> block = BlockAt<E>(work, split_begin + i);
        UnpackK(work, block, slot, unit, const_cast<float*>(view.k[c]) + i % kChunk);
        for (int64_t j = Most(i, low); j < Least(i + unit, high); ++j) {
          UnpackV(work, block.v + (slot + j - i) * shape.head_dim, v + j * padded_dim);
        }
        if (work.scaled) {
          for (int64_t j = i; j < i + unit; ++j) {
            k_scales[j] = block.k_scales[slot + j - i];
            v_scales[j] = block.v_scales[slot + j - i];
          }
        }
      }
    }
    AttendView<false>(work, view);
  }

  template <class E>
  static void AttendStored(const Work& work, int64_t split_begin, float* panels) {
    const KvBlockShape& shape = work.args.shape;
    const bool whole = shape.block_tokens % kChunk == 0 && shape.head_dim % kChunk == 0;
    if (whole && work.rows <= kDirectRows) return AttendInPlace<E>(work, split_begin);
    AttendUnpacked<E>(work, split_begin, panels);
  }

  // ---- Rows and their states.
  static int64_t PositionOf(const AttentionTile& tile, int64_t row) {
    return tile.sequence->start + tile.first_token + row / tile.heads;
  }
  static int64_t FirstSplitOf(const PagedAttentionArgs& args, const AttentionSizes& sizes, int64_t position) {
    const int64_t first = args.window > 0 && position + 1 > args.window ? position + 1 - args.window : 0;
    return first / sizes.split_tokens;
  }

  static void PointAtQueries(Work& work) {
    const int64_t head_dim = work.args.shape.head_dim;
    const AttentionTile& tile = work.tile;
    for (int64_t row = 0; row < work.rows; ++row) {
      const int64_t token = tile.sequence->row + tile.first_token + row / tile.heads;
      work.q[row] = work.args.q.f32_row(token) + (tile.first_head + row % tile.heads) * head_dim;
    }
  }

  static void AttendSplit(Work& work, int64_t split, float* panels) {
    const int64_t split_begin = split * work.sizes.split_tokens;
    int64_t low = kMaxChunks * kChunk, high = 0;
    for (int64_t row = 0; row < work.rows; ++row) {
      const int64_t position = PositionOf(work.tile, row);
      work.visible[row] = position < split_begin ? VisibleRange{0, 0}
                                                 : VisibleIn(work.args, position, split_begin, work.sizes.split_tokens);
      if (work.visible[row].end == 0) continue;
      low = Least(low, work.visible[row].begin);
      high = Most(high, work.visible[row].end);
    }
    work.first_chunk = low / kChunk;
    work.end_chunk = (high + kChunk - 1) / kChunk;
    switch (work.args.shape.dtype) {
      case DType::kF16:
        return AttendStored<F16Bits>(work, split_begin, panels);
      case DType::kBF16:
        return AttendStored<BF16Bits>(work, split_begin, panels);
      case DType::kI8:
        return AttendStored<int8_t>(work, split_begin, panels);
      default:
        return AttendStored<float>(work, split_begin, panels);
    }
  }

  // Adds a split to those before it.
  static void Fold(const AttentionSizes& sizes, const float* part, bool first, float* state) {
    const int64_t dim = sizes.padded_dim;
    if (first) {
      for (int64_t i = 0; i < dim + 2; i += kLanes) S::Store(state + i, S::Load(part + i));
      return;
    }
    const float top = part[dim] > state[dim] ? part[dim] : state[dim];
    const F offset = S::Set1(top == -INFINITY ? 0 : top);
    const F keep = S::ExpOf(S::Sub(S::Set1(state[dim]), offset));
    const F add = S::ExpOf(S::Sub(S::Set1(part[dim]), offset));
    for (int64_t i = 0; i < dim; i += kLanes) {
      S::Store(state + i, S::Fma(S::Load(part + i), add, S::Mul(S::Load(state + i), keep)));
    }
    const F sum = S::Fma(S::Set1(part[dim + 1]), add, S::Mul(S::Set1(state[dim + 1]), keep));
    S::StoreFirst(state + dim + 1, sum, 1);
    state[dim] = top;
  }

  static void Finish(const PagedAttentionArgs& args, const AttentionSizes& sizes, const AttentionTile& tile,
                     int64_t row, const float* state) {
    const int64_t head_dim = args.shape.head_dim;
    const int64_t token = tile.sequence->row + tile.first_token + row / tile.heads;
    const int64_t head = tile.first_head + row % tile.heads;
    const float top = state[sizes.padded_dim];
    const float sum = state[sizes.padded_dim + 1];
    const F divisor = S::Set1(sum);
    float* out = args.out.f32_row(token) + head * head_dim;
    for (int64_t d = 0; d < head_dim; d += kLanes) {
      const F value = S::Div(S::Load(state + d), divisor);
      if (head_dim - d >= kLanes)
        S::Store(out + d, value);
      else
        S::StoreFirst(out + d, value, head_dim - d);
    }
    if (args.lse != nullptr) args.lse[token * args.heads + head] = (top == -INFINITY ? 0 : top) + logf(sum);
  }

  // ---- The three kernels.
  static void Walk(const PagedAttentionArgs& args, const AttentionSizes& sizes, const AttentionTile& tile,
                   AttentionNext next, float* scratch) {
    const int64_t all_states = sizes.max_rows * sizes.state_floats();
    float* states = scratch;
    float* part = states + all_states;
    float* scores = part + all_states;
    float* panels = scores + sizes.max_rows * sizes.padded_tokens;
    Work work{
        .args = args, .sizes = sizes, .tile = tile, .rows = tile.rows(), .scaled = args.shape.dtype == DType::kI8};
    work.scores = scores;
    PointAtQueries(work);
    for (int64_t split = tile.first_split; split < tile.end_split; ++split) {
      const bool into_states = split == tile.first_split;
      work.states = into_states ? states : part;
      work.next = split + 1 < tile.end_split ? AttentionNext{&tile, split + 1} : next;
      AttendSplit(work, split, panels);
      if (into_states) continue;
      for (int64_t row = 0; row < work.rows; ++row) {
        if (work.visible[row].end == 0) continue;
        const bool first = split == FirstSplitOf(args, sizes, PositionOf(tile, row));
        Fold(sizes, part + row * sizes.state_floats(), first, states + row * sizes.state_floats());
      }
    }
    for (int64_t row = 0; row < work.rows; ++row) Finish(args, sizes, tile, row, states + row * sizes.state_floats());
  }

  static void Part(const PagedAttentionArgs& args, const AttentionSizes& sizes, const AttentionTile& tile,
                   int64_t split, AttentionNext next, float* scratch) {
    float* scores = scratch;
    float* panels = scores + sizes.max_rows * sizes.padded_tokens;
    Work work{
        .args = args, .sizes = sizes, .tile = tile, .rows = tile.rows(), .scaled = args.shape.dtype == DType::kI8};
    work.scores = scores;
    work.next = next;
    work.states = tile.parts + (split - tile.first_split) * work.rows * sizes.state_floats();
    PointAtQueries(work);
    AttendSplit(work, split, panels);
  }

  static void Merge(const PagedAttentionArgs& args, const AttentionSizes& sizes, const AttentionTile& tile,
                    float* scratch) {
    const int64_t rows = tile.rows();
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t position = PositionOf(tile, row);
      const int64_t first = FirstSplitOf(args, sizes, position);
      for (int64_t split = first; split <= position / sizes.split_tokens; ++split) {
        const int64_t part = (split - tile.first_split) * rows + row;
        Fold(sizes, tile.parts + part * sizes.state_floats(), split == first, scratch);
      }
      Finish(args, sizes, tile, row, scratch);
    }
  }

  static constexpr AttentionKernels Kernels() { return {.walk = &Walk, .part = &Part, .merge = &Merge}; }
};

}  // namespace
}  // namespace interlace
