// Sampler: logits of the last stage to tokens.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// Chooses a token for each sequence of the plan that samples and is not lost; `logits` has one row for each of
// `indices`, which are indices into the plan's sequences. Thread: runner.
std::vector<SampledToken> SampleTokens(Backend& backend, const StepPlan& plan, absl::Span<const size_t> indices,
                                       const Tensor& logits);

}  // namespace interlace
