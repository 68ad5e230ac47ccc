// SamplingSpec: how a client wants tokens chosen; checked, and turned into the form that plans carry.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/plan/sampling.h"
#include "text/tokenizer.h"

namespace interlace {

// Names and meanings are OpenAI's and vLLM's. Unset: the default in brackets.
struct SamplingSpec {
  std::optional<double> temperature, top_p;                   // [1, 1]
  std::optional<int64_t> top_k;                               // [off] 0 and -1: off
  std::optional<double> min_p, typical_p;                     // [0, 1: off]
  std::optional<double> repetition_penalty;                   // [1]
  std::optional<double> presence_penalty, frequency_penalty;  // [0]
  std::vector<std::pair<int64_t, double>> logit_bias;         // token id, bias
  std::vector<std::string> bad_words;
  std::vector<int32_t> allowed_token_ids;  // [all]
  std::optional<int64_t> min_tokens;       // [0]
  std::optional<int64_t> logprobs;         // [none] that many of the most likely, beside the chosen one
  std::optional<uint64_t> seed;            // [drawn]
};

// InvalidArgument names the field, as OpenAI's clients know it.
absl::Status CheckSampling(const SamplingSpec& spec, const Tokenizer& tokenizer);

// InvalidArgument if a bad word has no tokens. `end_tokens` are masked before min_tokens. Requires: a spec that
// CheckSampling found good.
absl::StatusOr<Sampling> SamplingOf(const SamplingSpec& spec, const Tokenizer& tokenizer,
                                    const std::vector<int32_t>& end_tokens, uint64_t seed);

// InvalidArgument "field: value is out of range: it must be ...".
absl::Status OutOfRange(absl::string_view field, double value, absl::string_view range);

}  // namespace interlace
