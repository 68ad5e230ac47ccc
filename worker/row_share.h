// RowShare: a rank's part of steps whose rows the ranks of a stage divide (sequence parallel).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/clock.h"
#include "model/layer_kv.h"
#include "model/shard_spec.h"
#include "proto/plan/step_plan.h"
#include "worker/layer_pager.h"
#include "worker/stage_group.h"

namespace interlace {

// The rows of the step that `rank` computes, of those that plan.row_cuts divides. Requires: CheckPlan.
ShardRange RowsOfRank(const StepPlan& plan, int32_t rank);
// Rows behind whose last layer the step's result is made: those that sample, are scored or are pooled. Ascending, of
// the plan alone, so the same on all ranks.
std::vector<int64_t> RowsOfResult(const StepPlan& plan);
// Likewise those whose hidden states behind `layer` keys are made of.
std::vector<int64_t> RowsOfKeys(const StepPlan& plan, LayerId layer);

// Every rank has all weights and all KV of the stage. In each layer it computes q, k and v of its own rows, gives the
// others the k and v of them, appends those of all rows to its own KV, and attends for its own rows. So a row's
// arithmetic is that of one rank alone, to the bit, and any rank can compute the whole of the next step. Owned by
// ModelRunner; thread: runner. The trap: what goes wrong in an exchange is the group's status.
class RowShare final : public LayerKv {
 public:
  struct Options {
    int32_t rank = 0;
    int32_t ranks = 1;
    int64_t kv_width = 0;  // floats of a row's k, and of its v
  };
  // All outlive this object.
  RowShare(const Options& options, StageGroup& group, LayerPager& pager, Clock& clock);
  // What StageGroup::Options::width must be at least, with rows of `width` floats.
  static int64_t GroupWidth(int64_t width, int64_t kv_width) { return std::max(width, 2 * kv_width); }

  // A step begins, which the pager and the group have opened.
  void Begin(const StepPlan& plan);
  // False: every rank computes all rows of this step, and tells nobody.
  bool divided() const { return divided_; }
  ShardRange own() const { return {begin_, begin_ + rows_[static_cast<size_t>(options_.rank)]}; }
  // Of this rank's own rows, which may be none.
  void Attend(LayerId layer, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out) override;
  // These rows (ascending) of x, which has a place for each row of the step, come from the ranks that computed them.
  void Gather(absl::Span<const int64_t> rows, const Tensor& x);
  // Since Begin, giving rows and waiting for those of others.
  absl::Duration exchanged() const { return exchanged_; }

 private:
  std::vector<Tensor> Exchange(absl::Span<const int64_t> rows, int64_t cols);

  const Options options_;
  StageGroup& group_;
  LayerPager& pager_;
  Clock& clock_;
  bool divided_ = false;
  int64_t begin_ = 0;                    // of the own rows
  std::vector<int64_t> rows_, kv_rows_;  // [ranks] that each computes; twice as many: of k and of v
  std::vector<int64_t> cuts_;            // [ranks] one past the last row of each
  absl::Duration exchanged_;
};

}  // namespace interlace
