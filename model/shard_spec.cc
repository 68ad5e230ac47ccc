#include "model/shard_spec.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "model/model_spec.h"

namespace interlace {
namespace {

absl::StatusOr<ShardRange> SplitRows(absl::string_view what, int64_t rows, int32_t rank, int32_t ranks) {
  if (rows < ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, "=", rows, " cannot be split over ", ranks, " tensor-parallel ranks"));
  }
  for (int64_t unit : {256, 32}) {
    if (rows % unit == 0 && rows / unit >= ranks) return SplitEvenly(rows, unit, rank, ranks);
  }
  return SplitEvenly(rows, 1, rank, ranks);
}

// What a split keeps small: the dearest of its stages, or the sum of their squares.
using Dearness = absl::uint128;
Dearness Dearest(Dearness a, Dearness b) { return std::max(a, b); }
Dearness SumOfSquares(Dearness sum, Dearness stage) { return sum + stage * stage; }

struct Split {
  Dearness total = 0;
  std::vector<int32_t> begins;  // the first layer of each stage, then one past the last layer
};

// The split whose total is least among those of which no stage is dearer than `most`.
Split LeastSplit(const StepCost& cost, int32_t stages, Dearness most, Dearness (*add)(Dearness, Dearness)) {
  const auto layers = static_cast<int32_t>(cost.layers.size());
  struct Best {  // over the last so many stages, from a layer on
    std::optional<Dearness> total;
    int32_t end = 0;  // of the first of these stages
  };
  std::vector<std::vector<Best>> best(stages + 1, std::vector<Best>(layers + 1));
  best[0][layers].total = 0;
  for (int32_t s = 1; s <= stages; ++s) {
    for (int32_t begin = layers - s; begin >= 0; --begin) {
      Dearness stage = s == 1 ? cost.head : 0;
      for (int32_t end = begin + 1; end <= layers; ++end) {
        stage += cost.layers[end - 1];
        const std::optional<Dearness>& rest = best[s - 1][end].total;
        if (!rest || stage > most) continue;
        const Dearness total = add(*rest, stage);
        Best& mine = best[s][begin];
        if (!mine.total || total <= *mine.total) mine = {total, end};  // of equals, the one with more layers first
      }
    }
  }
  Split split{*best[stages][0].total, {0}};
  for (int32_t s = stages; s > 0; --s) split.begins.push_back(best[s][split.begins.back()].end);
  return split;
}

}  // namespace

ShardSpec MakeShard(const StepCost& cost, int32_t stage, int32_t stages) {
  CHECK(stage >= 0 && stage < stages && stages <= static_cast<int32_t>(cost.layers.size()));
  const Split cheapest = LeastSplit(cost, stages, absl::Uint128Max(), &Dearest);
  const Split even = LeastSplit(cost, stages, cheapest.total, &SumOfSquares);
  return {stage, stages, even.begins[stage], even.begins[stage + 1]};
}

ShardRange SplitEvenly(int64_t count, int64_t unit, int32_t rank, int32_t ranks) {
  CHECK(rank >= 0 && rank < ranks && unit >= 1);
  const int64_t units = (count + unit - 1) / unit;
  const auto begin = [&](int64_t r) {
    return std::min(count, (units / ranks * r + std::min(r, units % ranks)) * unit);
  };
  return {begin(rank), begin(rank + 1)};
}

absl::StatusOr<TensorSplit> SplitTensors(const ModelSpec& spec, int32_t rank, int32_t ranks) {
  CHECK(rank >= 0 && rank < ranks);
  if (spec.heads % ranks != 0 || (spec.kv_heads % ranks != 0 && ranks % spec.kv_heads != 0)) {
    return absl::InvalidArgumentError(absl::StrCat(spec.heads, " heads that share ", spec.kv_heads,
                                                   " KV heads cannot be split over ", ranks, " tensor-parallel ranks"));
  }
  if (ranks > 1 && spec.parts.qk_norm == QkNorm::kAll) {
    return absl::InvalidArgumentError(
        absl::StrCat(spec.architecture,
                     " normalises all heads of a token together: they cannot be split over tensor-parallel ranks"));
  }
  TensorSplit split;
  split.heads = SplitEvenly(spec.heads, 1, rank, ranks);
  const int32_t group = spec.heads / spec.kv_heads;
  split.kv_heads = {split.heads.begin / group, (split.heads.end - 1) / group + 1};
  ASSIGN_OR_RETURN(split.feed_forward, SplitRows("feed_forward", spec.feed_forward, rank, ranks));
  ASSIGN_OR_RETURN(split.vocab, SplitRows("vocab", spec.vocab, rank, ranks));
  if (spec.experts.count > 0) {
    if (spec.experts.count < ranks) {
      return absl::InvalidArgumentError(
          absl::StrCat(spec.experts.count, " experts cannot be split over ", ranks, " tensor-parallel ranks"));
    }
    split.experts = SplitEvenly(spec.experts.count, 1, rank, ranks);
  }
  if (spec.experts.shared_feed_forward > 0) {
    ASSIGN_OR_RETURN(split.shared_feed_forward,
                     SplitRows("shared_feed_forward", spec.experts.shared_feed_forward, rank, ranks));
  }
  return split;
}

}  // namespace interlace
