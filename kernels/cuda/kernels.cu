// The device code: every body of kernel_list.h as a kernel, and the call that launches one.
#include <cuda_runtime.h>

#include "kernels/cuda/cuda_calls.h"
#include "kernels/cuda/kernel_list.h"
#include "kernels/cuda/kernels.h"

namespace interlace::cuda {
namespace {

// The block that bodies speak to (kernels/cuda/device.h).
class DeviceBlock {
 public:
  __device__ DeviceBlock(float* shared, double* partial) : shared_(shared), partial_(partial) {}
  __device__ int64_t x() const { return blockIdx.x; }
  __device__ int64_t y() const { return blockIdx.y; }
  __device__ float* shared() { return shared_; }

  template <class F>
  __device__ void For(int64_t n, F f) {
    for (int64_t i = threadIdx.x; i < n; i += kCudaThreads) f(i);
    __syncthreads();
  }

  template <class T, class F>
  __device__ T Sum(int64_t n, F f) {
    T sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += kCudaThreads) sum += f(i);
    T* partial = reinterpret_cast<T*>(partial_);
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (int half = kCudaThreads / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
      __syncthreads();
    }
    const T all = partial[0];
    __syncthreads();
    return all;
  }

  template <class F>
  __device__ float Max(int64_t n, F f) {
    float largest = MinusInfinity();
    for (int64_t i = threadIdx.x; i < n; i += kCudaThreads) {
      const float value = f(i);
      if (value > largest) largest = value;
    }
    float* partial = reinterpret_cast<float*>(partial_);
    partial[threadIdx.x] = largest;
    __syncthreads();
    for (int half = kCudaThreads / 2; half > 0; half /= 2) {
      if (threadIdx.x < half && partial[threadIdx.x + half] > partial[threadIdx.x]) {
        partial[threadIdx.x] = partial[threadIdx.x + half];
      }
      __syncthreads();
    }
    const float all = partial[0];
    __syncthreads();
    return all;
  }

 private:
  float* shared_;
  double* partial_;  // [kCudaThreads]
};

#define INTERLACE_KERNEL(name, body, parameters)                                     \
  __global__ void __launch_bounds__(kCudaThreads) name##Kernel(const parameters p) { \
    __shared__ float shared[kCudaSharedFloats];                                      \
    __shared__ double partial[kCudaThreads];                                         \
    DeviceBlock block(shared, partial);                                              \
    body(p, block);                                                                  \
  }
INTERLACE_CUDA_KERNELS(INTERLACE_KERNEL)

}  // namespace

int LaunchKernel(CudaKernel kernel, const CudaGrid& grid, const void* parameters, void* stream) {
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  const auto on = static_cast<cudaStream_t>(stream);
  switch (kernel) {
#define INTERLACE_LAUNCH(name, body, type)                                                \
  case CudaKernel::name:                                                                  \
    name##Kernel<<<blocks, kCudaThreads, 0, on>>>(*static_cast<const type*>(parameters)); \
    break;
    INTERLACE_CUDA_KERNELS(INTERLACE_LAUNCH)
  }
  return static_cast<int>(cudaGetLastError());
}

}  // namespace interlace::cuda
