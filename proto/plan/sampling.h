// Sampling: how a request's tokens are chosen, as plans carry it; and what the model held of the chosen ones.
#pragma once

#include <cstdint>
#include <vector>

namespace interlace {

struct LogitBias {
  int32_t token = 0;
  float bias = 0;
  friend bool operator==(const LogitBias&, const LogitBias&) = default;
};

// Order and meaning of the steps: kernels/sample/sample.h. Penalties and bad words look at the request's tokens, which
// the rank that samples keeps from the plans of the attempt: repetition at prompt and output, the others at the output.
struct Sampling {
  float temperature = 0;  // 0: greedy
  int32_t top_k = 0;      // 0: off
  float top_p = 1;
  uint64_t seed = 0;
  float min_p = 0;      // 0: off
  float typical_p = 1;  // 1: off
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  int32_t logprobs = -1;              // -1: none; N: of the chosen token and the N most likely
  int32_t min_tokens = 0;             // of the output, before one of end_tokens may be chosen
  std::vector<int32_t> end_tokens;    // filled only if min_tokens > 0
  std::vector<LogitBias> logit_bias;  // each token once
  std::vector<std::vector<int32_t>>
      bad_words;  // none empty; the last token is masked where the output ends with the rest
  bool penalises() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
  friend bool operator==(const Sampling&, const Sampling&) = default;
};

// The natural logarithm of a token's probability in the model's own distribution, before any step of Sampling.
struct TokenScore {
  int32_t token = 0;
  float logprob = 0;
  friend bool operator==(const TokenScore&, const TokenScore&) = default;
};

inline constexpr int32_t kMostLogprobs = 20;

}  // namespace interlace
