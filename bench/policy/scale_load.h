// A trace of production as load for many replicas: as many requests as asked for, as dense as asked for. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "bench/serve/dataset.h"

namespace interlace {

struct ScaleLoad {
  std::vector<TraceRow> requests;  // by due time; their blocks are hash ids, each of `block_tokens` tokens
  double rate = 0;                 // requests/s
  std::vector<int32_t> known;      // of each, tokens that begin its prompt and the prompt of an earlier one as well
  double hit_ceiling = 0;          // these, as a share of all prompt tokens
};

// The trace's first `count` requests, its times multiplied by one factor so that they come at `rate` requests/s on the
// average: bursts stay bursts. Where the trace has fewer, it begins again with hash ids of its own each time, as if
// other users had come. `rate` infinite: all come at once. Requires: rows are not empty, and in order of time.
ScaleLoad LoadOf(absl::Span<const TraceRow> rows, size_t count, double rate, int32_t block_tokens);

// The prompt's tokens: all those of a block are its id, so that equal beginnings are equal tokens. A prompt that is
// longer than its blocks ends with `own`, which no other prompt has.
std::vector<int32_t> PromptOf(const TraceRow& request, int32_t block_tokens, int32_t own);

}  // namespace interlace
