// Not built in yet: a step of a model with experts ends with Unimplemented.
#include <algorithm>

#include "kernels/cuda/cuda_ops.h"

namespace interlace::cuda {
namespace {

absl::Status NoExperts() {
  return absl::UnimplementedError("the cuda backend runs no mixture of experts yet; use engine.backend=cpu");
}

}  // namespace

void MoeRoute(const MoeRouteArgs& args, OpContext on) {
  CudaStream::Of(on).Fail(NoExperts());
  std::fill(args.experts.begin(), args.experts.end(), 0);
}

void MoeFfn(const MoeFfnArgs& /*args*/, OpContext on) { CudaStream::Of(on).Fail(NoExperts()); }

}  // namespace interlace::cuda
