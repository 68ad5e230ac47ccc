#include "kernels/kv_append/kv_append_cuda.h"

#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {

void KvAppend(const KvAppendArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  StagedRows staged;
  KvAppendParams parameters{.k = args.k.f32(), .v = args.v.f32()};
  if (!stream.Begin("kv_append") || !StageRows(stream, args.shape, args.sequences, &staged, &parameters.kv)) return;
  parameters.rows = staged.rows;
  parameters.blocks = staged.blocks;
  stream.Launch(CudaKernel::kKvAppend, {staged.count}, parameters);
}

}  // namespace interlace::cuda
