// How the CPU variants of paged_attention cut a call into tasks and deal them to the team. The rules that make a row's
// bits independent of the cutting:
//
// A split is a fixed range of positions, counted from 0: the largest multiple of block_tokens within 256, or one block.
// Each split of a row is a softmax of its own: maximum, sum of weights, weighted sum of V. The splits a row sees are
// merged by log-sum-exp one after the other, from the first. A tile is some rows that share their reading of K and V;
// which rows share one changes nothing.
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/op_context.h"
#include "kernels/paged_attention/paged_attention.h"

namespace interlace {

// Tokens [first_token, first_token + tokens) of a sequence's rows, times query heads [first_head, first_head + heads),
// all of one KV head. Its rows go by token, then head.
struct AttentionTile {
  const SequenceRows* sequence = nullptr;
  int32_t kv_head = 0;
  int32_t first_head = 0;
  int32_t heads = 0;
  int64_t first_token = 0;
  int64_t tokens = 0;
  int64_t first_split = 0;
  int64_t end_split = 0;
  // Of a tile whose splits are tasks of their own: the state of every split, and how many are to come; whoever brings
  // the last merges them.
  float* parts = nullptr;
  std::atomic<int32_t>* missing = nullptr;

  int64_t rows() const { return tokens * heads; }
};

// Sizes that follow from the call's shape alone.
struct AttentionSizes {
  explicit AttentionSizes(const PagedAttentionArgs& args);
  int64_t split_tokens;   // at most 512
  int64_t padded_tokens;  // of a split, a multiple of 64
  int64_t padded_dim;     // of a head, a multiple of 16
  int64_t max_rows;       // of a tile
  // A row's state: its output, unnormalised, then the largest score and the sum of weights.
  int64_t state_floats() const { return padded_dim + 16; }
  int64_t scratch_floats() const;  // of one thread
};

// The positions that a row at `position` sees of a split, relative to the split's first; empty: begin == end == 0.
struct VisibleRange {
  int64_t begin, end;
};
inline VisibleRange VisibleIn(const PagedAttentionArgs& args, int64_t position, int64_t split_begin,
                              int64_t split_tokens) {
  const int64_t first = args.window > 0 && position + 1 > args.window ? position + 1 - args.window : 0;
  const int64_t begin = first > split_begin ? first - split_begin : 0;
  const int64_t end = position + 1 - split_begin < split_tokens ? position + 1 - split_begin : split_tokens;
  return begin < end ? VisibleRange{begin, end} : VisibleRange{0, 0};
}

// Where a thread will read next, to fetch it early: a guess that changes no result.
struct AttentionNext {
  const AttentionTile* tile = nullptr;  // null: nothing
  int64_t split = 0;
};

// What a variant supplies.
struct AttentionKernels {
  // All splits of a tile, one after the other; writes its outputs. scratch: scratch_floats, 64-byte aligned.
  void (*walk)(const PagedAttentionArgs& args, const AttentionSizes& sizes, const AttentionTile& tile,
               AttentionNext next, float* scratch);
  // One split of a tile; writes its part.
  void (*part)(const PagedAttentionArgs& args, const AttentionSizes& sizes, const AttentionTile& tile, int64_t split,
               AttentionNext next, float* scratch);
  // Merges all parts of a tile; writes its outputs.
  void (*merge)(const PagedAttentionArgs& args, const AttentionSizes& sizes, const AttentionTile& tile, float* scratch);
};

// One parallel region for the whole call.
void RunAttention(const PagedAttentionArgs& args, const AttentionKernels& kernels, OpContext on);

}  // namespace interlace
