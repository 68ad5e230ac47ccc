// Shapes of soft_cap that matter; read by tests and benches.
#pragma once

#include "kernels/soft_cap/soft_cap.h"

namespace interlace {

struct SoftCapCase {
  absl::string_view name;
  int64_t tokens;
  int64_t width;
  float cap;
};
inline constexpr SoftCapCase kSoftCapCases[] = {
    {"empty", 0, 16, 30},
    {"one", 1, 1, 30},
    {"odd_tail", 5, 77, 2.5f},
    {"small_cap", 3, 40, 0.125f},
    {"gemma2_logits", 2, 256000, 30},
};

}  // namespace interlace
