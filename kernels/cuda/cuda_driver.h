// CudaDriver: everything that the CUDA backend asks of CUDA, as a table of a few calls.
//
// The runtime driver (runtime_driver.cc, built where nvcc is) answers with the CUDA runtime and cuBLASLt; tests answer
// with a driver that runs the same kernels on the host. Nothing else in this tree names a CUDA function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_calls.h"

namespace interlace {

enum class CudaMemory : uint8_t {
  kManaged,  // both sides reach it, its home is the device
  kDevice,   // the device alone
  kPinned,   // the host's, and the device copies from and to it
};

// What a call answered. Out of memory is told apart from all else.
struct CudaResult {
  enum Kind : uint8_t { kOk, kOutOfMemory, kFailed };
  Kind kind = kOk;
  std::string text;  // of CUDA, empty when ok
  bool ok() const { return kind == kOk; }
};

// Of the device that the driver runs on.
struct CudaFacts {
  std::string name;  // "NVIDIA H200"
  int64_t memory_bytes = 0;
  int32_t multiprocessors = 0;
  std::string libraries;  // "CUDA 13.0, driver 13.0, cuBLASLt 13.0.2"
};

// Owned by the CudaStream. Threads: the runner and the one that copies, at once, each on streams of its own. The trap:
// whatever takes a stream returns when it is queued; what it reads must stay as it is until the stream got there.
class CudaDriver {
 public:
  using Stream = void*;
  using Event = void*;

  virtual ~CudaDriver() = default;
  virtual CudaFacts facts() const = 0;

  virtual CudaResult Allocate(CudaMemory kind, int64_t bytes, void** out) = 0;  // bytes > 0; at least 256-byte aligned
  virtual CudaResult Free(CudaMemory kind, void* memory) = 0;
  virtual CudaResult CreateStream(Stream* out) = 0;
  virtual CudaResult DestroyStream(Stream stream) = 0;
  virtual CudaResult CreateEvent(Event* out) = 0;
  virtual CudaResult DestroyEvent(Event event) = 0;

  virtual CudaResult Fill(void* to, uint8_t value, int64_t bytes, Stream stream) = 0;
  // Between any two kinds of memory.
  virtual CudaResult Copy(void* to, const void* from, int64_t bytes, Stream stream) = 0;
  // `parameters` is the kernel's struct of `bytes` bytes, copied before the call returns. The grid has no empty side.
  virtual CudaResult Launch(CudaKernel kernel, const CudaGrid& grid, const void* parameters, int64_t bytes,
                            Stream stream) = 0;
  virtual CudaResult Gemm(const CudaGemm& gemm, Stream stream) = 0;
  virtual CudaResult Record(Event event, Stream stream) = 0;
  // What is queued on the stream from now on starts once the event, recorded on another stream, has come.
  virtual CudaResult WaitEvent(Stream stream, Event event) = 0;

  virtual CudaResult Await(Event event) = 0;  // blocks the host
  virtual CudaResult Synchronize(Stream stream) = 0;
};

// The driver of this build. FailedPrecondition says what this machine lacks (a driver, a GPU of compute capability 9.0,
// memory that both sides reach, cuBLASLt); Unimplemented: built without CUDA.
absl::StatusOr<std::unique_ptr<CudaDriver>> MakeRuntimeDriver();

}  // namespace interlace
