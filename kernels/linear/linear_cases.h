// Shapes of linear that matter; read by tests and benches.
#pragma once

#include "kernels/linear/linear.h"

namespace interlace {

struct LinearCase {
  absl::string_view name;
  DType dtype;
  int64_t tokens;
  int64_t rows;
  int64_t k;
  bool accumulate;
};
inline constexpr LinearCase kLinearCases[] = {
    {"no_tokens", DType::kF32, 0, 8, 32, false},
    {"no_rows", DType::kQ4_1, 2, 0, 32, false},
    {"one", DType::kF32, 1, 1, 1, false},
    {"below_a_vector", DType::kF32, 2, 3, 7, true},
    {"odd_tail_f32", DType::kF32, 5, 9, 77, false},
    {"odd_tail_f16", DType::kF16, 1, 19, 45, false},
    {"odd_tail_bf16", DType::kBF16, 4, 5, 1035, true},
    {"one_block_q4_0", DType::kQ4_0, 1, 3, 32, false},
    {"odd_rows_q5_0", DType::kQ5_0, 4, 21, 96, true},
    {"odd_rows_q5_1", DType::kQ5_1, 1, 35, 160, false},
    {"odd_rows_q4_k", DType::kQ4_K, 7, 33, 512, false},
    {"odd_rows_q5_k", DType::kQ5_K, 2, 17, 256, true},
    {"odd_rows_q6_k", DType::kQ6_K, 9, 50, 768, false},
    {"odd_rows_iq4_nl", DType::kIQ4_NL, 3, 19, 160, true},
    {"odd_rows_iq4_xs", DType::kIQ4_XS, 10, 35, 512, false},
    {"odd_rows_mxfp4", DType::kMXFP4, 1, 33, 224, false},
    {"many_tokens_mxfp4", DType::kMXFP4, 21, 18, 96, true},
    {"odd_rows_q3_k", DType::kQ3_K, 5, 20, 768, false},
    {"odd_rows_q2_k", DType::kQ2_K, 2, 37, 512, true},
    {"many_tokens_q2_k", DType::kQ2_K, 19, 49, 256, false},
    {"long_k_q6_k", DType::kQ6_K, 5, 16, 8192, false},
    {"long_k_q8_0", DType::kQ8_0, 2, 6, 8192, false},
    {"smollm2_q_f32", DType::kF32, 7, 576, 576, false},
    {"smollm2_q_f16", DType::kF16, 1, 576, 576, false},
    {"smollm2_q_bf16", DType::kBF16, 3, 576, 576, false},
    {"smollm2_q_q8_0", DType::kQ8_0, 1, 576, 576, false},
    {"smollm2_q_q4_0", DType::kQ4_0, 8, 576, 576, false},
    {"smollm2_q_decode", DType::kQ4_1, 1, 576, 576, false},
    {"smollm2_kv_decode", DType::kQ4_1, 1, 192, 576, false},
    {"smollm2_up_decode", DType::kQ4_1, 1, 1536, 576, false},
    {"smollm2_down_decode", DType::kQ4_1, 1, 576, 1536, true},
    {"smollm2_head_decode", DType::kQ8_0, 1, 49152, 576, false},
    {"smollm2_kv_batch", DType::kQ4_1, 6, 192, 576, false},
    {"smollm2_down_chunk", DType::kQ4_1, 100, 576, 1536, true},
    {"smollm2_up_prefill", DType::kQ4_1, 512, 1536, 576, false},
};

}  // namespace interlace
