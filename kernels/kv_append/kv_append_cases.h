// Shapes of kv_append that matter; read by tests and benches.
#pragma once

#include "kernels/kv_append/kv_append.h"

namespace interlace {

struct KvAppendCase {
  absl::string_view name;
  KvBlockShape shape;
  int64_t tokens;
  int32_t start;
};
inline constexpr KvAppendCase kKvAppendCases[] = {
    {"empty", {8, 1, 8}, 0, 0},
    {"one", {8, 1, 8}, 1, 0},
    {"last_slot", {16, 3, 64}, 1, 15},
    {"across_a_border", {8, 2, 16}, 11, 5},
    {"smollm2_decode", {16, 3, 64}, 1, 517},
    {"smollm2_decode_f16", {16, 3, 64, DType::kF16}, 1, 517},
    {"smollm2_decode_i8", {16, 3, 64, DType::kI8}, 1, 517},
    {"smollm2_chunk", {16, 3, 64}, 70, 33},
    {"far_chunk_bf16", {32, 1, 128, DType::kBF16}, 9, 131063},
    {"smollm2_prefill_f16", {16, 3, 64, DType::kF16}, 512, 0},
    {"smollm2_prefill_bf16", {32, 3, 64, DType::kBF16}, 512, 0},
    {"smollm2_prefill_i8", {16, 3, 64, DType::kI8}, 512, 0},
};

}  // namespace interlace
