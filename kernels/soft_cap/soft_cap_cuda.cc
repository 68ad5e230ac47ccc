#include "kernels/soft_cap/soft_cap_cuda.h"

#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {

void SoftCap(const SoftCapArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  if (!stream.Begin("soft_cap")) return;
  stream.Launch(CudaKernel::kSoftCap, {args.x.rows},
                SoftCapParams{args.x.f32(), static_cast<int32_t>(args.x.cols), args.cap});
}

}  // namespace interlace::cuda
