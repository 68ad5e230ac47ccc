#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/variants.h"
#include "kernels/paged_attention/attention_kernel.h"

namespace interlace::avx512 {

void PagedAttention(const PagedAttentionArgs& args, OpContext on) {
  RunAttention(args, Attention<Simd>::Kernels(), on);
}

}  // namespace interlace::avx512
