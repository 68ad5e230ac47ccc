#include "kernels/rope/rope_cuda.h"

#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {

void Rope(const RopeArgs& args, OpContext on) {
  CudaStream& stream = CudaStream::Of(on);
  if (args.x.rows == 0 || !stream.Begin("rope")) return;
  StagedArray arrays[] = {ToStage<int32_t>(args.positions), ToStage<float>(args.frequencies)};
  if (!stream.Stage(absl::MakeSpan(arrays))) return;
  const auto pairs = static_cast<int32_t>(args.frequencies.size());
  const bool adjacent = args.pairs == RopePairs::kAdjacent;
  stream.Launch(CudaKernel::kRope, {args.x.rows},
                RopeParams{.x = args.x.f32(),
                           .positions = reinterpret_cast<const int32_t*>(arrays[0].device),
                           .frequencies = reinterpret_cast<const float*>(arrays[1].device),
                           .heads = static_cast<int32_t>(args.x.cols / args.head_dim),
                           .head_dim = args.head_dim,
                           .pairs = pairs,
                           .stride = adjacent ? 2 : 1,
                           .apart = adjacent ? 1 : pairs,
                           .magnitude = args.magnitude});
}

}  // namespace interlace::cuda
