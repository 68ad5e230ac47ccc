#include "model/shard_spec.h"

#include <algorithm>

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

}  // namespace

ShardSpec MakeShard(int32_t layers, int32_t stage, int32_t stages) {
  CHECK(stage >= 0 && stage < stages && stages <= layers);
  const auto begin = [&](int32_t s) { return layers / stages * s + std::min(s, layers % stages); };
  return {stage, stages, begin(stage), begin(stage + 1)};
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
