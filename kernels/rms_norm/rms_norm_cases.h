// Shapes of rms_norm that matter; read by tests and benches.
#pragma once

#include "kernels/rms_norm/rms_norm.h"

namespace interlace {

struct RmsNormCase {
  absl::string_view name;
  int64_t tokens;
  int64_t width;
  bool in_place;
};
inline constexpr RmsNormCase kRmsNormCases[] = {
    {"empty", 0, 16, false},          {"one", 1, 1, false},     {"below_a_vector", 3, 7, false},
    {"odd_tail", 5, 577, false},      {"head", 9, 64, true},    {"smollm2_decode", 1, 576, false},
    {"smollm2_chunk", 33, 576, true}, {"wide", 2, 8192, false},
};

}  // namespace interlace
