// sample: chooses one token per row of logits.
//
// temperature 0: the largest logit, the lowest id on a tie. Otherwise: logits / temperature, keep the top_k largest
// (0: all; ties by lower id), then the smallest set whose probability reaches top_p, then the token whose cumulative
// probability (descending, ties by lower id) passes u. u comes from Philox4x32-10 keyed by the request's seed and
// counted by the token's index, so a resumed or migrated stream draws the same numbers.
// Logits that are not finite are never chosen.
// Source of the generator: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
#pragma once

#include "absl/types/span.h"
#include "kernels/tensor.h"

namespace interlace {

struct SampleRow {
  float temperature = 0;  // >= 0
  int32_t top_k = 0;      // >= 0; 0: off
  float top_p = 1;        // (0, 1]
  uint64_t seed = 0;
  uint64_t index = 0;  // of the token in the request's output
};

struct SampleArgs {
  absl::Span<int32_t> tokens;        // out, [rows]; -1 where a row's logits hold no finite value
  Tensor logits;                     // F32 [rows, vocab]
  absl::Span<const SampleRow> rows;  // [rows]
};

// The uniform number in [0, 1) of (seed, index).
double SampleUniform(uint64_t seed, uint64_t index);

}  // namespace interlace
