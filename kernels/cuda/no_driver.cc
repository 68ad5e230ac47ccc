// The driver of a build without CUDA.
#include "absl/status/status.h"
#include "kernels/cuda/cuda_driver.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<CudaDriver>> MakeRuntimeDriver() {
  return absl::UnimplementedError(
      "this build has no CUDA: nvcc was not found when it was configured, or INTERLACE_CUDA was OFF; "
      "use engine.backend=cpu, or build with -DINTERLACE_CUDA=ON where the CUDA toolkit is");
}

}  // namespace interlace
