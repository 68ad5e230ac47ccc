// Shapes of residual_add that matter; read by tests and benches.
#pragma once

#include "kernels/residual_add/residual_add.h"

namespace interlace {

struct ResidualAddCase {
  absl::string_view name;
  int64_t tokens;
  int64_t width;
};
inline constexpr ResidualAddCase kResidualAddCases[] = {
    {"empty", 0, 16}, {"one", 1, 1}, {"odd_tail", 5, 77}, {"gemma3_decode", 1, 640}, {"gemma3_chunk", 40, 640},
};

}  // namespace interlace
