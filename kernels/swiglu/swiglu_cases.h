// Shapes of swiglu that matter; read by tests and benches.
#pragma once

#include "kernels/swiglu/swiglu.h"

namespace interlace {

struct SwigluCase {
  absl::string_view name;
  int64_t tokens;
  int64_t width;
  float spread;  // gates are drawn from [-spread, spread]
  bool in_place;
};
inline constexpr SwigluCase kSwigluCases[] = {
    {"empty", 0, 16, 1, false},           {"one", 1, 1, 1, false},
    {"odd_tail", 3, 37, 4, false},        {"saturated", 2, 999, 120, false},
    {"smollm2_decode", 1, 1536, 8, true}, {"smollm2_chunk", 33, 1536, 8, true},
};

}  // namespace interlace
