#include "kernels/rms_norm/rms_norm_cuda.h"

#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {

void RmsNorm(const RmsNormArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  if (!stream.Begin("rms_norm")) return;
  stream.Launch(CudaKernel::kRmsNorm, {args.x.rows},
                RmsNormParams{.out = args.out.f32(),
                              .x = args.x.f32(),
                              .weight = args.weight.f32(),
                              .width = args.x.cols,
                              .epsilon = args.epsilon});
}

}  // namespace interlace::cuda
