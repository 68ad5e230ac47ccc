// Shapes of paged_attention that matter; read by tests and benches.
#pragma once

#include "kernels/paged_attention/paged_attention.h"

namespace interlace {

// `sequences` alike ones of `tokens` rows each.
struct PagedAttentionCase {
  absl::string_view name;
  KvBlockShape shape;
  int32_t heads;
  int64_t tokens;
  int32_t start;
  int32_t window = 0;
  float soft_cap = 0;
  int64_t sequences = 1;
};
inline constexpr PagedAttentionCase kPagedAttentionCases[] = {
    {"empty", {8, 1, 8}, 1, 0, 0},
    {"one", {8, 1, 8}, 1, 1, 0},
    {"first_tile", {16, 1, 64}, 3, 16, 0},
    {"odd_blocks", {24, 2, 40}, 4, 7, 21},
    {"wide_group", {8, 1, 16}, 11, 5, 9},
    {"wider_than_a_tile", {32, 1, 16}, 130, 2, 40},
    {"head_80", {32, 2, 80, DType::kF16}, 8, 3, 300},
    {"head_96", {16, 1, 96, DType::kBF16}, 7, 20, 250},
    {"head_128", {512, 1, 128, DType::kI8}, 4, 2, 700},
    {"head_256", {32, 1, 256}, 2, 3, 70},
    {"head_1024", {64, 1, 1024, DType::kF16}, 2, 30, 70},
    {"window_in_a_block", {64, 1, 64, DType::kF16}, 2, 70, 600, 5},
    {"window_over_splits", {16, 1, 64, DType::kI8}, 4, 40, 900, 512},
    {"capped", {16, 2, 64, DType::kF16}, 4, 30, 280, 0, 5},
    {"smollm2_first", {16, 3, 64}, 9, 1, 0},
    {"smollm2_decode_512", {16, 3, 64}, 9, 1, 511},
    {"smollm2_decode_512_f16", {16, 3, 64, DType::kF16}, 9, 1, 511},
    {"smollm2_decode_2000", {16, 3, 64}, 9, 1, 1999},
    {"smollm2_decode_2000_f16", {16, 3, 64, DType::kF16}, 9, 1, 1999},
    {"smollm2_decode_2000_bf16", {32, 3, 64, DType::kBF16}, 9, 1, 1999},
    {"smollm2_decode_2000_i8", {16, 3, 64, DType::kI8}, 9, 1, 1999},
    {"smollm2_decode_8000_f16", {32, 3, 64, DType::kF16}, 9, 1, 7999},
    {"smollm2_decode_8x256_f16", {16, 3, 64, DType::kF16}, 9, 1, 255, 0, 0, 8},
    {"smollm2_decode_32x256_f16", {16, 3, 64, DType::kF16}, 9, 1, 255, 0, 0, 32},
    {"smollm2_chunk", {16, 3, 64}, 9, 50, 77},
    {"smollm2_prefill_512", {16, 3, 64}, 9, 512, 0},
    {"smollm2_prefill_512_f16", {16, 3, 64, DType::kF16}, 9, 512, 0},
    {"smollm2_prefill_4096_f16", {32, 3, 64, DType::kF16}, 9, 4096, 0},
    {"smollm2_prefill_512_bf16", {32, 3, 64, DType::kBF16}, 9, 512, 0},
    {"smollm2_prefill_4096_bf16", {32, 3, 64, DType::kBF16}, 9, 4096, 0},
    {"smollm2_decode_8x256_bf16", {32, 3, 64, DType::kBF16}, 9, 1, 255, 0, 0, 8},
    {"gemma3_decode_2000_f16", {32, 1, 256, DType::kF16}, 4, 1, 1999},
    {"gemma3_decode_window_f16", {32, 1, 256, DType::kF16}, 4, 1, 1999, 512},
    {"far_decode_f16", {16, 1, 64, DType::kF16}, 3, 1, 131071},
    {"far_chunk_bf16", {32, 1, 128, DType::kBF16}, 2, 5, 131067},
    {"far_window_i8", {512, 1, 64, DType::kI8}, 2, 3, 131069, 512},
};

}  // namespace interlace
