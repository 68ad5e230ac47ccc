// Shapes of paged_attention that matter; read by tests and benches.
#pragma once

#include "kernels/paged_attention/paged_attention.h"

namespace interlace {

struct PagedAttentionCase {
  absl::string_view name;
  KvBlockShape shape;
  int32_t heads;
  int64_t tokens;
  int32_t start;
};
inline constexpr PagedAttentionCase kPagedAttentionCases[] = {
    {"empty", {8, 1, 8}, 1, 0, 0},
    {"one", {8, 1, 8}, 1, 1, 0},
    {"first_tile", {16, 1, 64}, 3, 16, 0},
    {"odd_blocks", {24, 2, 40}, 4, 7, 21},
    {"wide_group", {8, 1, 16}, 11, 5, 9},
    {"head_256", {32, 1, 256}, 2, 3, 70},
    {"smollm2_first", {16, 3, 64}, 9, 1, 0},
    {"smollm2_decode_512", {16, 3, 64}, 9, 1, 511},
    {"smollm2_decode_2000", {16, 3, 64}, 9, 1, 1999},
    {"smollm2_chunk", {16, 3, 64}, 9, 50, 77},
    {"smollm2_prefill_512", {16, 3, 64}, 9, 512, 0},
};

}  // namespace interlace
