#include "kernels/residual_add/residual_add_cuda.h"

#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {

void ResidualAdd(const ResidualAddArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  if (!stream.Begin("residual_add")) return;
  stream.Launch(CudaKernel::kResidualAdd, {args.x.rows},
                ResidualAddParams{args.x.f32(), args.y.f32(), static_cast<int32_t>(args.x.cols), args.scale});
}

}  // namespace interlace::cuda
