// Shapes of rope that matter; read by tests and benches.
#pragma once

#include "kernels/rope/rope.h"

namespace interlace {

struct RopeCase {
  absl::string_view name;
  int64_t tokens;
  int64_t heads;
  int32_t head_dim;
  int32_t first_position;
  int32_t rotated = 0;  // of head_dim; 0: all
};
inline constexpr RopeCase kRopeCases[] = {
    {"empty", 0, 3, 64, 0},
    {"one_pair", 1, 1, 2, 5},
    {"odd_pairs", 3, 2, 14, 100},
    {"smollm2_q_decode", 1, 9, 64, 511},
    {"smollm2_k_chunk", 40, 3, 64, 0},
    {"smollm2_q_far", 8, 9, 64, 8000},
    {"head_128", 5, 4, 128, 131000},
    {"phi4_mini", 3, 24, 128, 4000, 96},
    {"odd_part", 4, 3, 24, 17, 14},
};

}  // namespace interlace
