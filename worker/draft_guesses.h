// DraftGuesses: what the last row of a draft pass samples becomes a guess of its sequence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/tensor.h"
#include "model/model_arch.h"
#include "proto/plan/step_plan.h"
#include "worker/layer_pager.h"
#include "worker/sampler.h"

namespace interlace {

// A guess is sampled as the step will sample at its place, with the same chance numbers, so that the two agree
// wherever the distributions let them. Masks of constraints are not applied: a guess that is not allowed is wrong.
// Owned by each drafter; thread: runner.
class DraftGuesses {
 public:
  DraftGuesses(int32_t vocab, LayerPager& pager, Sampler& sampler) : vocab_(vocab), pager_(pager), sampler_(sampler) {}

  // Of each of `places`, a sequence and the position of its newest token or guess, row rows[i] of x is the hidden state
  // behind the last layer of `arch`. What it samples becomes the sequence's token behind that position. `logits` has
  // room for those of all places.
  void Make(const StepPlan& plan, absl::Span<const DraftRow> places, absl::Span<const int32_t> rows, ModelArch& arch,
            const Tensor& x, std::byte* logits);

 private:
  const int32_t vocab_;
  LayerPager& pager_;
  Sampler& sampler_;
  std::vector<SampleAsk> asks_;
};

}  // namespace interlace
