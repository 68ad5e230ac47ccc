// Shapes of embedding that matter; read by tests and benches.
#pragma once

#include "kernels/embedding/embedding.h"

namespace interlace {

struct EmbeddingCase {
  absl::string_view name;
  DType dtype;
  int64_t tokens;
  int64_t vocab;
  int64_t width;
};
inline constexpr EmbeddingCase kEmbeddingCases[] = {
    {"empty", DType::kF32, 0, 4, 8},
    {"one", DType::kF32, 1, 1, 1},
    {"odd_tail", DType::kF16, 5, 7, 13},
    {"bf16", DType::kBF16, 3, 11, 40},
    {"q4_0", DType::kQ4_0, 4, 9, 96},
    {"smollm2_q4_1", DType::kQ4_1, 17, 512, 576},
    {"smollm2_q8_0", DType::kQ8_0, 64, 512, 576},
};

}  // namespace interlace
