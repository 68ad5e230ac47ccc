// Sampler: logits of the last stage to tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// One row of logits and what to make of it.
struct SampleAsk {
  RequestId request{};
  uint32_t attempt = 0;
  int32_t index = 0;                   // of the token in the output
  const Sampling* sampling = nullptr;  // of the request
  absl::Span<const int32_t> tokens;    // of the sequence, from position 0 to the row's: prompt, then `index` of output
  absl::Span<const uint32_t> allowed = {};  // a mask of the vocabulary (OutputMasks); empty: any token
  bool must_end = false;                    // it allows end tokens alone: min_tokens plays no part
};

// One row of logits and the token that it scores, for one of the results that are being gathered.
struct ScoreRow {
  int32_t target = 0;
  size_t result = 0;
};

// Owned by ModelRunner; thread: runner. It remembers nothing of a request: what penalties and bad words look at is
// worked out anew from the row's tokens, so that a step that is taken back or run again changes nothing.
class Sampler {
 public:
  Sampler(Backend& backend, int32_t vocab) : backend_(backend), vocab_(vocab) {}

  // One token for each ask; `logits` has its row.
  std::vector<SampledToken> Sample(absl::Span<const SampleAsk> asks, const Tensor& logits);
  // Appends what each row of `logits` holds of its target, and of the most likely as its result asks, to the results.
  void Score(absl::Span<const ScoreRow> asks, const Tensor& logits, std::vector<PromptScores>* results);

 private:
  // What a row points to.
  struct RowDetail {
    std::vector<TokenBias> bias;
    std::vector<int32_t> masked;
    std::vector<SeenToken> seen;
  };
  void Fill(const SampleAsk& ask, RowDetail* detail);
  std::vector<SeenToken> CountTokens(absl::Span<const int32_t> prompt, absl::Span<const int32_t> output);

  Backend& backend_;
  const int32_t vocab_;
  std::vector<int32_t> places_;  // [vocab] where a token is in the list being made, -1: not; empty until a request asks
};

}  // namespace interlace
