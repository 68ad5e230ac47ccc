// The arithmetic of paged_attention for any vector width. Only paged_attention_<isa>.cc files include this, with S the
// Simd of their instruction set and P its products (attention_f32.h, attention_bf16.h); everything has internal
// linkage. Here: rows, splits one after the other, and their merging. attention_split.h is one split.
#pragma once

#include "kernels/paged_attention/attention_split.h"

namespace interlace {
namespace {

template <class S, class P>
struct Attention {
  using F = typename S::F;
  using Work = AttentionWork<typename P::Query>;
  static constexpr int kLanes = S::kLanes;

  // ---- Rows and their states.
  static int64_t PositionOf(const AttentionTile& tile, int64_t row) {
    return tile.sequence->start + tile.first_token + row / tile.heads;
  }
  static int64_t FirstSplitOf(const PagedAttentionArgs& args, const AttentionSizes& sizes, int64_t position) {
    const int64_t first = args.window > 0 && position + 1 > args.window ? position + 1 - args.window : 0;
    return first / sizes.split_tokens;
  }

  // Behind the panels, and no more than they leave of room made for F32.
  static typename P::Query* QueryRoom(const AttentionSizes& sizes, float* panels) {
    const int64_t used = 2 * sizes.padded_tokens * (sizes.padded_dim / P::kPacked + 1);
    return reinterpret_cast<typename P::Query*>(panels + used);
  }

  static void AttendSplit(Work& work, int64_t split, float* panels) {
    const int64_t split_begin = split * work.sizes.split_tokens;
    int64_t low = kMaxChunks * kChunk, high = 0;
    for (int64_t row = 0; row < work.rows; ++row) {
      const int64_t position = work.PositionOf(row);
      work.visible[row] = position < split_begin ? VisibleRange{0, 0}
                                                 : VisibleIn(work.args, position, split_begin, work.sizes.split_tokens);
      if (work.visible[row].end == 0) continue;
      low = Least(low, work.visible[row].begin);
      high = Most(high, work.visible[row].end);
    }
    work.first_chunk = low / kChunk;
    work.end_chunk = (high + kChunk - 1) / kChunk;
    P::WithStored(work.args.shape.dtype,
                  [&]<class E>() { AttentionSplit<S, P>::template AttendStored<E>(work, split_begin, panels); });
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
    P::PointAtQueries(work, QueryRoom(sizes, panels));
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
    P::PointAtQueries(work, QueryRoom(sizes, panels));
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
