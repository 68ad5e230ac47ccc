// One split of one tile of paged_attention: scores, softmax, weighted values, for any vector width and kind of product.
// Only attention_kernel.h includes this; everything has internal linkage.
//
// S is the Simd of an instruction set, P its products (attention_f32.h, attention_bf16.h):
//   kPacked                elements that one product sums, neighbours along a head (scores) or positions (values)
//   Query, Panel           kPacked elements of a query or weight; of K or V unpacked
//   V, Load, LoadSide      kLanes x kPacked elements out of rows that lie a stride apart; such vectors side by side
//   Load8, Store, Store8   eight lanes of a V; to a panel
//   Set1, Fma, Only        a Query in every lane; products added to sums; V without the elements that are not seen
//   ChunksAtOnce(rows)     of one score kernel, for a vector per chunk
//   kSubChunks             of a pass whose K or V stay in the first-level cache
//   kChunksAhead           being fetched
//   WithStored             calls its body with the type that holds the call's K and V
//   PointAtQueries         work.q; room: max_rows * padded_dim of Query
//   Softmax                scores of a row into its weights as Query, from the same place on; largest score and sum
//
// Per row, whatever shares its registers: a score is one chain of products over ascending d; within a split, sums of
// weights go lane by lane and outputs by ascending position, in groups of kPacked counted from the split's first; a
// position that the row does not see is left out. So the bits of a row depend on its own inputs alone.
#pragma once

#include <math.h>

#include "kernels/cpu/stored.h"
#include "kernels/paged_attention/attention_tasks.h"

namespace interlace {
namespace {

constexpr int kChunk = 16;  // positions that one pointer stands for
constexpr int kMaxChunks = 512 / kChunk;
constexpr int kPanelChunks = 4;  // side by side in a panel of K
constexpr int kMaxTileRows = 96;
constexpr int kGroupRows = 6;   // rows that share registers
constexpr int kDirectRows = 8;  // at most, to read blocks in place rather than unpack them
constexpr int64_t kLineBytes = 64;

[[maybe_unused, gnu::always_inline]] inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
[[maybe_unused, gnu::always_inline]] inline int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }

// tanh to about one unit in the last place (Cephes' tanhf).
template <class S>
[[maybe_unused, gnu::always_inline]] inline typename S::F Tanh(typename S::F x) {
  using F = typename S::F;
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

// K and V of one split and KV head, as stored or unpacked.
template <class E>
struct AttentionView {
  const E* k[kMaxChunks];  // row d (or group of rows) of a chunk: [d * k_stride + i], i a position
  const E* v[kMaxChunks];  // row i (or group): [i * v_stride + d]
  int64_t k_stride;
  int64_t v_stride;
  const float* k_scales[kMaxChunks];  // int8_t only
  const float* v_scales[kMaxChunks];
  // What to fetch while chunk c is at work; as many bytes as the chunk has.
  const char* k_ahead[kMaxChunks];
  const char* v_ahead[kMaxChunks];
};

// A tile on its way through one split.
template <class Query>
struct AttentionWork {
  const PagedAttentionArgs& args;
  const AttentionSizes& sizes;
  const AttentionTile& tile;
  int64_t rows;
  bool scaled;
  const Query* q[kMaxTileRows];
  VisibleRange visible[kMaxTileRows];
  int64_t first_chunk, end_chunk;  // that any row sees
  AttentionNext next;
  float* scores;  // [rows][padded_tokens], then the weights
  float* states;  // [rows][state_floats]: where this split's go

  int64_t PositionOf(int64_t row) const { return tile.sequence->start + tile.first_token + row / tile.heads; }
  const float* QueryOf(int64_t row) const {
    const int64_t token = tile.sequence->row + tile.first_token + row / tile.heads;
    return args.q.f32_row(token) + (tile.first_head + row % tile.heads) * args.shape.head_dim;
  }
};

template <class S, class P>
struct AttentionSplit {
  using F = typename S::F;
  using V = typename P::V;
  using Query = typename P::Query;
  using Panel = typename P::Panel;
  using Work = AttentionWork<Query>;
  template <class E>
  using View = AttentionView<E>;
  static constexpr int kLanes = S::kLanes;
  static constexpr int kVectorsPerChunk = kChunk / kLanes;
  static constexpr int kPacked = P::kPacked;
  // Rows of E that one vector takes.
  template <class E>
  static constexpr int kRowsOf = sizeof(E) < sizeof(Panel) ? kPacked : 1;

  // ---- Scores: M rows, C chunks at a time; kSide of them lie side by side.
  template <int M, int C, int kSide, bool kAhead, class E>
  [[gnu::always_inline]] static void ScoreChunks(const Query* const* q, const View<E>& view, int64_t c,
                                                 int64_t head_dim, float* scores, int64_t stride) {
    constexpr int kVectors = C * kVectorsPerChunk;
    constexpr int64_t kBytesPerGroup = kChunk * kRowsOf<E> * static_cast<int64_t>(sizeof(E));
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
    const int64_t groups = head_dim / kPacked;
    for (int64_t g = 0; g < groups; ++g) {
      V ks[kVectors];
#pragma GCC unroll 8
      for (int i = 0; i < C; i += kSide) {
        V side[kSide * kVectorsPerChunk];
        P::LoadSide(k[i] + g * kRowsOf<E> * k_stride, k_stride, side);
#pragma GCC unroll 8
        for (int v = 0; v < kSide * kVectorsPerChunk; ++v) ks[i * kVectorsPerChunk + v] = side[v];
      }
      if (kAhead && g * kBytesPerGroup % kLineBytes == 0) {
#pragma GCC unroll 8
        for (int i = 0; i < C; ++i) __builtin_prefetch(ahead[i] + g * kBytesPerGroup, 0, 2);
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const V broadcast = P::Set1(q[m][g]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[m][v] = P::Fma(broadcast, ks[v], acc[m][v]);
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
    constexpr int C = P::ChunksAtOnce(M);
    const Query* const* q = work.q + row;
    float* scores = work.scores + row * work.sizes.padded_tokens;
    const int64_t head_dim = work.args.shape.head_dim;
    const int64_t stride = work.sizes.padded_tokens;
    int64_t c = begin;
    // Rows of 32 positions: one load of a line instead of two, which counts where it comes from memory.
    if (kRowsOf < E >> 1 && work.args.shape.block_tokens % (2 * kChunk) == 0) {
      constexpr int kSide = kRowsOf<E>;
      if (c % 2 == 1 && c < end) ScoreChunks<M, 1, 1, kAhead>(q, view, c++, head_dim, scores, stride);
      for (; c + C <= end; c += C) ScoreChunks<M, C, kSide, kAhead>(q, view, c, head_dim, scores, stride);
    }
    for (; c + C <= end; c += C) ScoreChunks<M, C, 1, kAhead>(q, view, c, head_dim, scores, stride);
    for (; c < end; ++c) ScoreChunks<M, 1, 1, kAhead>(q, view, c, head_dim, scores, stride);
  }

  // ---- Values: M rows, N vectors of a head's elements, chunks [begin, end).
  // The group of positions from j on to row m, which sees [low, high).
  template <int M, int N, class E>
  [[gnu::always_inline]] static void AddGroup(int64_t j, int m, const View<E>& view, int64_t d, const Query* weights,
                                              int64_t low, int64_t high, F (&acc)[M][N]) {
    const V weight = P::Set1(weights[j / kPacked]);
    const E* v = view.v[j / kChunk] + j % kChunk / kPacked * kRowsOf<E> * view.v_stride + d;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      acc[m][n] = P::Fma(weight, P::Only(P::Load(v + n * kLanes, view.v_stride), low - j, high - j), acc[m][n]);
    }
  }

  [[gnu::always_inline]] static int64_t GroupDown(int64_t j) { return j / kPacked * kPacked; }
  [[gnu::always_inline]] static int64_t GroupUp(int64_t j) { return GroupDown(j + kPacked - 1); }

  template <int M, int N, bool kAhead, class E>
  [[gnu::always_inline]] static void ValueVectors(const Work& work, const View<E>& view, int64_t row, int64_t begin,
                                                  int64_t end, int64_t d, bool accumulate) {
    constexpr int64_t kBytes = sizeof(E);
    const int64_t stride = work.sizes.padded_tokens;
    const int64_t state = work.sizes.state_floats();
    const auto* weights = reinterpret_cast<const Query*>(work.scores + row * stride);
    float* outputs = work.states + row * state + d;
    F acc[M][N];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        acc[m][n] = accumulate ? S::Load(outputs + m * state + n * kLanes) : S::Zero();
      }
    }
    // Groups that all rows see whole, between those that some see, or see in part.
    int64_t low[M], high[M];
    int64_t common_low = begin * kChunk, common_high = end * kChunk;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      low[m] = Most(work.visible[row + m].begin, begin * kChunk);
      high[m] = Least(work.visible[row + m].end, end * kChunk);
      common_low = Most(common_low, GroupUp(low[m]));
      common_high = Least(common_high, GroupDown(high[m]));
    }
    if (common_high <= common_low) common_low = common_high = end * kChunk;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const int64_t stop = Least(high[m], common_low);
      for (int64_t j = GroupDown(low[m]); j < stop; j += kPacked) {
        AddGroup(j, m, view, d, weights + m * stride, low[m], high[m], acc);
      }
    }
    const int64_t v_stride = view.v_stride;
    for (int64_t j = common_low; j < common_high;) {
      const int64_t c = j / kChunk;
      const int64_t stop = Least(common_high, (c + 1) * kChunk);
      const int64_t offset = j % kChunk / kPacked * kRowsOf<E> * v_stride + d;
      const E* v = view.v[c] + offset;
      const char* ahead = kAhead ? view.v_ahead[c] + offset * kBytes : nullptr;
      for (; j < stop; j += kPacked, v += kRowsOf<E> * v_stride) {
        V vs[N];
        P::LoadSide(v, v_stride, vs);
        if (kAhead) {
#pragma GCC unroll 2
          for (int r = 0; r < kRowsOf<E>; ++r) {
#pragma GCC unroll 8
            for (int64_t b = 0; b < N * kLanes * kBytes; b += kLineBytes) __builtin_prefetch(ahead + b, 0, 2);
            ahead += v_stride * kBytes;
          }
        }
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const V weight = P::Set1(weights[m * stride + j / kPacked]);
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) acc[m][n] = P::Fma(weight, vs[n], acc[m][n]);
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      for (int64_t j = Most(GroupDown(low[m]), common_high); j < high[m]; j += kPacked) {
        AddGroup(j, m, view, d, weights + m * stride, low[m], high[m], acc);
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
    const int64_t step = work.rows <= kGroupRows ? kMaxChunks : P::kSubChunks;
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
      if (work.visible[row].end > 0) P::Softmax(work, view, row);
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
    const int64_t first = tile.sequence->start + tile.first_token;
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
    const int64_t distance = Most(P::kChunksAhead, shape.block_tokens / kChunk);
    const int64_t known = 2 * chunks + FirstRunsOf<E>(work, distance, runs + 2 * chunks);
    for (int64_t i = 0; i < chunks; ++i) {
      view.k_ahead[work.first_chunk + i] = runs[Least(i + distance, known - 1)];
      view.v_ahead[work.first_chunk + i] = runs[Least(chunks + i + distance, known - 1)];
    }
    AttendView<true>(work, view);
  }

  // Of K: kChunk positions, or 8.
  template <class E>
  static void UnpackK(const Work& work, const E* from, int64_t positions, Panel* to) {
    const int64_t stride = work.args.shape.block_tokens;
    const int64_t groups = work.args.shape.head_dim / kPacked;
    for (int64_t g = 0; g < groups; ++g, from += kRowsOf<E> * stride, to += kPanelChunks * kChunk) {
      int64_t i = 0;
      for (; i + kLanes <= positions; i += kLanes) P::Store(to + i, P::Load(from + i, stride));
      if (i < positions) P::Store8(to + i, P::Load8(from + i, stride));
    }
  }

  // Of V: kPacked positions; head_dim elements, then zeros up to padded_dim.
  template <class E>
  static void UnpackV(const Work& work, const E* from, Panel* to) {
    const int64_t head_dim = work.args.shape.head_dim;
    int64_t d = 0;
    for (; d + 2 * kLanes <= head_dim; d += 2 * kLanes) {
      V side[2];
      P::LoadSide(from + d, head_dim, side);
      P::Store(to + d, side[0]);
      P::Store(to + d + kLanes, side[1]);
    }
    for (; d + kLanes <= head_dim; d += kLanes) P::Store(to + d, P::Load(from + d, head_dim));
    for (; d + 8 <= head_dim; d += 8) P::Store8(to + d, P::Load8(from + d, head_dim));
    for (; d < work.sizes.padded_dim; ++d) to[d] = Panel{};
  }

  // Unpacks the split first: worth it for many rows, and right for any shape. K goes to [sub][head_dim][64], the
  // elements of a Panel side by side.
  template <class E>
  static void AttendUnpacked(const Work& work, int64_t split_begin, float* panels) {
    const KvBlockShape& shape = work.args.shape;
    const int64_t padded_dim = work.sizes.padded_dim;
    const int64_t panel = work.sizes.padded_tokens * padded_dim / kPacked;
    auto* k = reinterpret_cast<Panel*>(panels);
    auto* v = k + panel;
    float* k_scales = panels + 2 * panel;
    float* v_scales = k_scales + work.sizes.padded_tokens;
    int64_t low = kMaxChunks * kChunk, high = 0;
    for (int64_t m = 0; m < work.rows; ++m) {
      if (work.visible[m].end == 0) continue;
      low = Least(low, GroupDown(work.visible[m].begin));
      high = Most(high, GroupUp(work.visible[m].end));
    }
    View<Panel> view;
    view.k_stride = kPanelChunks * kChunk;
    view.v_stride = padded_dim;
    for (int64_t c = work.first_chunk; c < work.end_chunk; ++c) {
      Panel* k_chunk =
          k + c / kPanelChunks * kPanelChunks * kChunk * (shape.head_dim / kPacked) + c % kPanelChunks * kChunk;
      view.k[c] = k_chunk;
      view.v[c] = v + c * (kChunk / kPacked) * padded_dim;
      view.k_scales[c] = k_scales + c * kChunk;
      view.v_scales[c] = v_scales + c * kChunk;
      const int64_t unit = shape.block_tokens % kChunk == 0 ? kChunk : 8;
      for (int64_t i = c * kChunk; i < (c + 1) * kChunk; i += unit) {
        if (i >= high || i + unit <= low) continue;
        const int64_t slot = (split_begin + i) % shape.block_tokens;
        const Block<E> block = BlockAt<E>(work, split_begin + i);
        UnpackK(work, block.k + slot, unit, k_chunk + i % kChunk);
        for (int64_t j = Most(i, low); j < Least(i + unit, high); j += kPacked) {
          UnpackV(work, block.v + (slot + j - i) * shape.head_dim, v + j / kPacked * padded_dim);
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
};

}  // namespace
}  // namespace interlace
