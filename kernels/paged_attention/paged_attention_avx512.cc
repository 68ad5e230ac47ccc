#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/variants.h"
#include "kernels/paged_attention/attention_f32.h"
#include "kernels/paged_attention/attention_kernel.h"

namespace interlace::avx512 {

void PagedAttention(const PagedAttentionArgs& args, OpContext on) {
  RunAttention(args, Attention<Simd, F32Products<Simd>>::Kernels(), on);
}

}  // namespace interlace::avx512
