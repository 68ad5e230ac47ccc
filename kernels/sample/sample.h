// sample: chooses one token per row of logits, and says how likely the model held it.
//
// A row goes through these steps in this order (vLLM's; typical, which vLLM lacks, comes last as in transformers):
//   1. bias: added to the logits of the tokens it names.
//   2. masked: tokens that must not be chosen (bad words; end tokens before min_tokens): -inf; so are all but those of
//      `allowed`, where a row has it.
//   3. penalties, for each token seen, in F32: x = x > 0 ? x / repetition : x * repetition; then
//      x -= frequency * (times in the output); then x -= presence if it is in the output.
//   4. temperature 0: the largest logit, the lowest id on a tie; the steps below are left out.
//   5. weights exp((x - largest) / temperature).
//   6. min_p: tokens of at least min_p times the largest probability stay.
//   7. top_k: the top_k largest stay (0: all; ties by lower id).
//   8. top_p: the smallest set, largest first, whose share of what stayed reaches top_p.
//   9. typical_p: the smallest set, nearest first in |-log p - entropy|, whose share of what stayed reaches typical_p.
//  10. of what stayed, largest first (ties by lower id), the token whose cumulative share passes u. u comes from
//      Philox4x32-10 keyed by the request's seed and counted by the token's index, so a resumed or migrated stream
//      draws the same numbers.
// Logits that are not finite, at the start or after step 3, are never chosen.
// A row whose token is given takes none of these steps: it is asked for what the model held of that token.
// Log probabilities are of the row as the model made it: log softmax over the finite logits before step 1.
// Source of the generator: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
#pragma once

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace interlace {

struct TokenBias {
  int32_t token = 0;
  float bias = 0;
  friend bool operator==(const TokenBias&, const TokenBias&) = default;
};

// A token of the prompt or of the output, once.
struct SeenToken {
  int32_t token = 0;
  int32_t in_output = 0;  // times; 0: in the prompt alone
};

// The spans belong to the caller. Every token they name is within the vocabulary.
struct SampleRow {
  float temperature = 0;  // >= 0
  int32_t top_k = 0;      // >= 0; 0: off
  float top_p = 1;        // (0, 1]
  uint64_t seed = 0;
  uint64_t index = 0;            // of the token in the request's output
  float min_p = 0;               // [0, 1]; 0: off
  float typical_p = 1;           // (0, 1]; 1: off
  float repetition_penalty = 1;  // > 0; 1: off
  float presence_penalty = 0;
  float frequency_penalty = 0;
  absl::Span<const TokenBias> bias;
  absl::Span<const int32_t> masked;
  absl::Span<const uint32_t> allowed;  // [(vocab + 31) / 32] bit t % 32 of word t / 32 is token t's; empty: all are
  absl::Span<const SeenToken> seen;    // read only where a penalty is on
  int32_t logprobs = -1;               // -1: none; N: of the chosen token and of the N largest
  int32_t given = -1;                  // the token to take; -1: choose one
};

struct TokenLogprob {
  int32_t token = -1;  // -1: no such token, the row has fewer finite logits
  float logprob = 0;
  friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

struct SampleArgs {
  absl::Span<int32_t> tokens;        // out, [rows]; -1 where a row's logits hold no finite value
  Tensor logits;                     // F32 [rows, vocab]; the op works in it and leaves it as it was
  absl::Span<const SampleRow> rows;  // [rows]
  // Out, [rows, logprobs_stride]: the chosen token, then the N largest (ties by lower id); entries beyond are not
  // written. May be empty if no row asks; else logprobs_stride > every row's N.
  absl::Span<TokenLogprob> logprobs = {};
  int64_t logprobs_stride = 0;
  // Out, [rows] or empty: of a given token, 1 + how many tokens come before it in the order of logprobs. 0 where the
  // row's logits hold no finite value; where no token is given it is not written.
  absl::Span<int32_t> ranks = {};
};

// The uniform number in [0, 1) of (seed, index).
double SampleUniform(uint64_t seed, uint64_t index);

}  // namespace interlace
