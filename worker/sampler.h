// Sampler: logits of the last stage to tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// Owned by ModelRunner; thread: runner. It remembers nothing of a request: what penalties and bad words look at is
// worked out anew from the sequence's tokens, so that a step that is taken back or run again changes nothing.
// The trap: those tokens must reach from position 0 to the one that samples.
class Sampler {
 public:
  Sampler(Backend& backend, int32_t vocab) : backend_(backend), vocab_(vocab) {}

  // Chooses a token for each of `indices`, which are sequences of the plan that sample and are not lost. `tokens` has
  // the sequence's prompt and output for each, `logits` its row.
  std::vector<SampledToken> Sample(const StepPlan& plan, absl::Span<const size_t> indices,
                                   absl::Span<const absl::Span<const int32_t>> tokens, const Tensor& logits);

 private:
  // What a row points to.
  struct RowDetail {
    std::vector<TokenBias> bias;
    std::vector<int32_t> masked;
    std::vector<SeenToken> seen;
  };
  void Fill(const PlanSequence& sequence, absl::Span<const int32_t> tokens, RowDetail* detail);
  std::vector<SeenToken> CountTokens(absl::Span<const int32_t> prompt, absl::Span<const int32_t> output);

  Backend& backend_;
  const int32_t vocab_;
  std::vector<int32_t> places_;  // [vocab] where a token is in the list being made, -1: not; empty until a request asks
};

}  // namespace interlace
