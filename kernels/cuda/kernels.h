// The device code as the runtime driver calls it.
#pragma once

#include "kernels/cuda/cuda_calls.h"

namespace interlace::cuda {

// Queues a kernel with its struct of parameters on a cudaStream_t; answers a cudaError_t.
int LaunchKernel(CudaKernel kernel, const CudaGrid& grid, const void* parameters, void* stream);

}  // namespace interlace::cuda
