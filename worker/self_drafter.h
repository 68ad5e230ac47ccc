// SelfDrafter: guesses that a rank makes itself, by passes over some of the model's sublayers.
#pragma once

#include <cstdint>
#include <vector>

#include "model/model_arch.h"
#include "model/shard_spec.h"
#include "proto/plan/step_plan.h"
#include "worker/draft_guesses.h"
#include "worker/layer_pager.h"
#include "worker/sampler.h"

namespace interlace {

// A pass computes one row of each sequence that drafts: its newest token, at the position of that token, through the
// sublayers that its plan runs. Attention of a layer whose KV is not on the device is passed over too, so a pass waits
// for no copy: it runs while blocks of the host layers travel for the step itself. What a row samples is the
// sequence's next guess and the next pass's token. KV that a pass writes lies in the sequence's private tail, where the
// step, which computes the same positions by the whole model, writes over it; a layer that a pass skipped has none.
//
// Source: Zhang et al., "Draft & Verify", ACL 2024; Xia et al., "SWIFT", arXiv 2410.06916.
//
// Owned by ModelRunner of a rank that holds the whole model; thread: runner.
class SelfDrafter {
 public:
  SelfDrafter(const ShardSpec& shard, int32_t vocab, ModelArch& arch, LayerPager& pager, Sampler& sampler)
      : shard_(shard), arch_(arch), pager_(pager), guesses_(vocab, pager, sampler) {}

  // Between LayerPager's Open and the step's first layer: the guesses become tokens of the sequences that are to make
  // their own. `x` has a row, and `logits` room for the logits, of each of them. False: none is.
  bool Run(const StepPlan& plan, const Tensor& x, std::byte* logits);

 private:
  struct Row {
    size_t sequence = 0;  // of the plan
    const SkipPlan* plan = nullptr;
    LayerSet attends;  // layers whose attention it runs
  };
  // Those that draft, rows of equal plans side by side.
  void Gather(const StepPlan& plan);
  void Pass(const StepPlan& plan, int32_t pass, const Tensor& x);
  // Calls visit(begin, count) for each stretch of rows for which `runs` holds.
  template <typename Runs, typename Visit>
  void EachRun(Runs runs, Visit visit) const;
  void Guess(const StepPlan& plan, const Tensor& x, std::byte* logits);

  const ShardSpec shard_;
  ModelArch& arch_;
  LayerPager& pager_;
  DraftGuesses guesses_;
  std::vector<Row> rows_;
  std::vector<int32_t> tokens_, positions_;   // of rows_
  std::vector<const LoraAdapter*> adapters_;  // likewise
  std::vector<DraftRow> draft_rows_;          // likewise
};

}  // namespace interlace
