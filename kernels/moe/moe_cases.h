// Shapes of moe_route and moe_ffn that matter; read by tests and benches.
#pragma once

#include "kernels/moe/moe.h"

namespace interlace {

struct MoeCase {
  absl::string_view name;
  DType dtype;
  int64_t tokens;
  int32_t experts;
  int32_t top_k;
  int64_t width;
  int64_t feed_forward;
  int64_t shared_feed_forward;  // 0: no shared expert
  bool normalise;
};
inline constexpr MoeCase kMoeCases[] = {
    {"empty", DType::kF32, 0, 4, 2, 32, 32, 0, true},
    {"one", DType::kF32, 1, 1, 1, 8, 8, 0, false},
    {"all_experts", DType::kF32, 3, 4, 4, 40, 24, 0, true},
    {"mixtral", DType::kF16, 17, 8, 2, 64, 96, 0, true},
    {"qwen2moe_decode", DType::kF32, 1, 60, 4, 64, 32, 128, false},
    {"qwen2moe_chunk", DType::kBF16, 33, 60, 4, 64, 32, 128, false},
    {"qwen3moe_chunk", DType::kF32, 50, 128, 8, 64, 32, 0, true},
};

}  // namespace interlace
