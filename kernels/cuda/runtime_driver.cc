// The driver over the CUDA runtime and cuBLASLt. Device 0: CUDA_VISIBLE_DEVICES says which that is.
#include <cuda_runtime.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/cuda/cublas_gemm.h"
#include "kernels/cuda/cuda_driver.h"
#include "kernels/cuda/kernels.h"

namespace interlace {
namespace {

constexpr int kDevice = 0;

// CUDA 13 names a place by a location, CUDA 12 by the number of the device.
#if CUDART_VERSION >= 13000
constexpr int kLeastDriver = 580;
constexpr cudaMemLocation kPlace{.type = cudaMemLocationTypeDevice, .id = kDevice};
cudaError_t PrefetchToDevice(void* memory, size_t bytes) {
  return cudaMemPrefetchAsync(memory, bytes, kPlace, 0, nullptr);
}
#else
constexpr int kLeastDriver = 525;
constexpr int kPlace = kDevice;
cudaError_t PrefetchToDevice(void* memory, size_t bytes) {
  return cudaMemPrefetchAsync(memory, bytes, kPlace, nullptr);
}
#endif
cudaError_t PreferDevice(void* memory, size_t bytes) {
  return cudaMemAdvise(memory, bytes, cudaMemAdviseSetPreferredLocation, kPlace);
}

CudaResult Of(cudaError_t error) {
  if (error == cudaSuccess) return {};
  // An error that is not sticky is forgotten by the runtime once it is read.
  (void)cudaGetLastError();
  return {error == cudaErrorMemoryAllocation ? CudaResult::kOutOfMemory : CudaResult::kFailed,
          absl::StrCat(cudaGetErrorName(error), ", ", cudaGetErrorString(error))};
}

class RuntimeDriver final : public CudaDriver {
 public:
  RuntimeDriver(CudaFacts facts, std::unique_ptr<CublasGemm> gemm, void* workspace)
      : facts_(std::move(facts)), gemm_(std::move(gemm)), workspace_(workspace) {}
  ~RuntimeDriver() override { (void)cudaFree(workspace_); }

  CudaFacts facts() const override { return facts_; }

  CudaResult Allocate(CudaMemory kind, int64_t bytes, void** out) override {
    const auto size = static_cast<size_t>(bytes);
    switch (kind) {
      case CudaMemory::kPinned:
        return Of(cudaHostAlloc(out, size, cudaHostAllocDefault));
      case CudaMemory::kDevice:
        return Of(cudaMalloc(out, size));
      case CudaMemory::kManaged:
        break;
    }
    // Managed memory may exceed the device's and then travels at every touch: that is refused here.
    size_t free_bytes = 0, all_bytes = 0;
    if (CudaResult r = Of(cudaMemGetInfo(&free_bytes, &all_bytes)); !r.ok()) return r;
    if (size > free_bytes) {
      return {CudaResult::kOutOfMemory, absl::StrCat(free_bytes, " of ", all_bytes, " bytes of the device are free")};
    }
    if (CudaResult r = Of(cudaMallocManaged(out, size, cudaMemAttachGlobal)); !r.ok()) return r;
    // No SetAccessedBy: a page that the host touched would then be read over the bus for ever rather than come back.
    CudaResult r = Of(PreferDevice(*out, size));
    if (r.ok()) r = Of(PrefetchToDevice(*out, size));
    if (r.ok()) r = Of(cudaStreamSynchronize(nullptr));
    if (!r.ok()) (void)cudaFree(*out);
    return r;
  }
  CudaResult Free(CudaMemory kind, void* memory) override {
    return Of(kind == CudaMemory::kPinned ? cudaFreeHost(memory) : cudaFree(memory));
  }
  CudaResult CreateStream(Stream* out) override {
    cudaStream_t stream = nullptr;
    CudaResult r = Of(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    *out = stream;
    return r;
  }
  CudaResult DestroyStream(Stream stream) override { return Of(cudaStreamDestroy(static_cast<cudaStream_t>(stream))); }
  CudaResult CreateEvent(Event* out) override {
    cudaEvent_t event = nullptr;
    CudaResult r = Of(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    *out = event;
    return r;
  }
  CudaResult DestroyEvent(Event event) override { return Of(cudaEventDestroy(static_cast<cudaEvent_t>(event))); }

  CudaResult Fill(void* to, uint8_t value, int64_t bytes, Stream stream) override {
    return Of(cudaMemsetAsync(to, value, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)));
  }
  CudaResult Copy(void* to, const void* from, int64_t bytes, Stream stream) override {
    return Of(
        cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, static_cast<cudaStream_t>(stream)));
  }
  CudaResult Launch(CudaKernel kernel, const CudaGrid& grid, const void* parameters, int64_t /*bytes*/,
                    Stream stream) override {
    return Of(static_cast<cudaError_t>(cuda::LaunchKernel(kernel, grid, parameters, stream)));
  }
  CudaResult Gemm(const CudaGemm& gemm, Stream stream) override {
    std::string error = gemm_->Run(gemm, workspace_, stream);
    if (error.empty()) return {};
    return {CudaResult::kFailed, std::move(error)};
  }
  CudaResult Record(Event event, Stream stream) override {
    return Of(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)));
  }
  CudaResult WaitEvent(Stream stream, Event event) override {
    return Of(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event), 0));
  }

  CudaResult Await(Event event) override { return Of(cudaEventSynchronize(static_cast<cudaEvent_t>(event))); }
  CudaResult Synchronize(Stream stream) override {
    return Of(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
  }

 private:
  const CudaFacts facts_;
  const std::unique_ptr<CublasGemm> gemm_;
  void* const workspace_;  // of cuBLASLt
};

absl::Status Lacks(absl::string_view what, cudaError_t error) {
  const CudaResult result = Of(error);
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", result.text));
}

std::string Version(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

}  // namespace

absl::StatusOr<std::unique_ptr<CudaDriver>> MakeRuntimeDriver() {
  int devices = 0;
  if (cudaError_t e = cudaGetDeviceCount(&devices); e != cudaSuccess) {
    return Lacks(absl::StrCat("no GPU can be used (NVIDIA driver ", kLeastDriver, " or newer?)"), e);
  }
  if (devices == 0) return absl::FailedPreconditionError("no GPU is visible; see CUDA_VISIBLE_DEVICES");
  if (cudaError_t e = cudaSetDevice(kDevice); e != cudaSuccess) return Lacks("the GPU cannot be used", e);
  cudaDeviceProp properties{};
  if (cudaError_t e = cudaGetDeviceProperties(&properties, kDevice); e != cudaSuccess) {
    return Lacks("the GPU does not say what it is", e);
  }
  if (properties.major != 9 || properties.minor != 0) {
    return absl::FailedPreconditionError(absl::StrCat(properties.name, " has compute capability ", properties.major,
                                                      ".", properties.minor,
                                                      "; this build has code for 9.0 (H100, H200)"));
  }
  if (properties.concurrentManagedAccess == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(properties.name, ": host and GPU cannot use managed memory at the same time on this system"));
  }
  int runtime = 0, driver = 0;
  (void)cudaRuntimeGetVersion(&runtime);
  (void)cudaDriverGetVersion(&driver);
  ASSIGN_OR_RETURN(std::unique_ptr<CublasGemm> gemm, CublasGemm::Open());
  void* workspace = nullptr;
  if (cudaError_t e = cudaMalloc(&workspace, CublasGemm::kWorkspaceBytes); e != cudaSuccess) {
    return Lacks("no memory for cuBLASLt's workspace", e);
  }
  CudaFacts facts{properties.name, static_cast<int64_t>(properties.totalGlobalMem), properties.multiProcessorCount,
                  absl::StrCat("CUDA ", Version(runtime), ", driver ", Version(driver), ", ", gemm->version())};
  return std::make_unique<RuntimeDriver>(std::move(facts), std::move(gemm), workspace);
}

}  // namespace interlace
