// The cuda backend over any driver; CreateBackend("cuda") makes one over the driver of this build.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_driver.h"

namespace interlace {

// FailedPrecondition, Unimplemented: what MakeRuntimeDriver says.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options);

// InvalidArgument, NotFound: options that this backend does not take.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackendOver(std::unique_ptr<CudaDriver> driver,
                                                             const BackendOptions& options);

}  // namespace interlace
