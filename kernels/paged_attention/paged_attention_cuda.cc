#include "kernels/paged_attention/paged_attention_cuda.h"

#include "common/check.h"
#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {

void PagedAttention(const PagedAttentionArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  CHECK(args.shape.head_dim <= kMaxHeadDim && args.heads % args.shape.kv_heads == 0);
  StagedRows staged;
  PagedAttentionParams parameters{.out = args.out.f32(),
                                  .q = args.q.f32(),
                                  .lse = args.lse,
                                  .heads = args.heads,
                                  .scale = args.scale,
                                  .window = args.window,
                                  .soft_cap = args.soft_cap};
  if (!stream.Begin("paged_attention")) return;
  if (!StageRows(stream, args.shape, args.sequences, &staged, &parameters.kv)) return;
  parameters.rows = staged.rows;
  parameters.blocks = staged.blocks;
  stream.Launch(CudaKernel::kPagedAttention, {staged.count, args.heads}, parameters);
}

}  // namespace interlace::cuda
