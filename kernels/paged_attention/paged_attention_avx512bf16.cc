#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/variants.h"
#include "kernels/paged_attention/attention_bf16.h"
#include "kernels/paged_attention/attention_kernel.h"

namespace interlace::avx512bf16 {

void PagedAttention(const PagedAttentionArgs& args, OpContext on) {
  if (args.shape.dtype != DType::kBF16) return avx512::PagedAttention(args, on);
  RunAttention(args, Attention<avx512::Simd, BF16Products>::Kernels(), on);
}

}  // namespace interlace::avx512bf16
