// ShardSpec: which part of a model a rank holds; pure arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/ids.h"

namespace interlace {

struct ModelSpec;

// [begin, end).
struct ShardRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  friend bool operator==(const ShardRange&, const ShardRange&) = default;
};

struct ShardSpec {
  int32_t stage = 0;
  int32_t stages = 1;
  int32_t layer_begin = 0;
  int32_t layer_end = 0;  // one past
  int32_t tensor_rank = 0;
  int32_t tensor_ranks = 1;  // that share the layers of a stage
  bool first() const { return stage == 0; }
  bool last() const { return stage + 1 == stages; }
  int32_t layers() const { return layer_end - layer_begin; }
};

// The bytes of weights that a token reads on its way through a model. The embedding costs nothing: a token reads one
// row.
struct TokenCost {
  std::vector<int64_t> layers;
  int64_t head = 0;  // of the last stage, beside its layers
};

// Consecutive layers, at least one for each stage, so that the dearest stage is as cheap as can be: a pipeline is as
// fast as that one. Among such splits the most even one, and then the one whose earlier stages have more layers. With
// 30 layers of 2 MB each and a head of 30 MB, two stages get 22 layers, and 8 layers and the head. All ranks of a
// replica must be given the same cost. Requires: 0 <= stage < stages <= layers, no cost below 0.
ShardSpec MakeShard(const TokenCost& cost, int32_t stage, int32_t stages);

// What one of the ranks that share a layer holds. Every query head, row and expert belongs to exactly one rank; a KV
// head belongs to the ranks of the query heads that read it. Sums over ranks of the products with column ranges
// (attention's output, down) are the whole product.
struct TensorSplit {
  ShardRange heads;                // query heads
  ShardRange kv_heads;             // of those
  ShardRange feed_forward;         // rows of gate and up, columns of down
  ShardRange shared_feed_forward;  // the same of the shared expert
  ShardRange experts;              // whole ones
  ShardRange vocab;                // rows of the output head
};
// InvalidArgument names what cannot be split so: query heads that are no multiple of the ranks, KV heads and ranks
// neither of which is a multiple of the other, fewer rows or experts than ranks. Rows are cut at multiples of 256 where
// every rank gets some so, else of 32, else anywhere: columns of `down` must be whole quantised blocks.
absl::StatusOr<TensorSplit> SplitTensors(const ModelSpec& spec, int32_t rank, int32_t ranks);

// The share of `rank` of `count` things in runs of `unit`, as even as can be, earlier ranks the larger; the last run
// may be short. Requires: 0 <= rank < ranks, unit >= 1.
ShardRange SplitEvenly(int64_t count, int64_t unit, int32_t rank, int32_t ranks);

}  // namespace interlace
