// Shapes of sample that matter; read by tests and benches.
#pragma once

#include "kernels/sample/sample.h"

namespace interlace {

struct SampleCase {
  absl::string_view name;
  int64_t rows;
  int64_t vocab;
  SampleRow settings;
};
inline constexpr SampleCase kSampleCases[] = {
    {"empty", 0, 8, {}},
    {"one", 1, 1, {}},
    {"odd_tail", 3, 13, {.temperature = 1}},
    {"smollm2_greedy", 2, 49152, {}},
    {"smollm2_free", 2, 49152, {.temperature = 1}},
    {"smollm2_top_k", 2, 49152, {.temperature = 0.7f, .top_k = 40}},
    {"smollm2_top_p", 2, 49152, {.temperature = 0.8f, .top_p = 0.9f}},
    {"smollm2_min_p", 2, 49152, {.temperature = 1, .min_p = 0.05f}},
    {"smollm2_typical", 2, 49152, {.temperature = 1, .typical_p = 0.9f}},
    {"qwen3_top_p", 1, 151936, {.temperature = 0.6f, .top_p = 0.95f}},
    {"smollm2_logprobs", 2, 49152, {.temperature = 0, .logprobs = 20}},
    {"smollm2_both", 4, 49152, {.temperature = 1.2f, .top_k = 200, .top_p = 0.95f}},
};

}  // namespace interlace
