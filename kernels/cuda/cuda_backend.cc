#include "kernels/cuda/cuda_backend.h"

#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/cuda/cuda_copies.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_stream.h"

namespace interlace {
namespace {

constexpr int kMaxThreads = 1024;

// It waits for the stream when it dies.
class CudaBuffer final : public DeviceBuffer {
 public:
  CudaBuffer(CudaStream& stream, CudaMemory kind, std::byte* data, int64_t bytes)
      : stream_(stream), kind_(kind), data_(data), bytes_(bytes) {}
  ~CudaBuffer() override { stream_.Free(kind_, data_); }
  CudaBuffer(const CudaBuffer&) = delete;
  CudaBuffer& operator=(const CudaBuffer&) = delete;
  std::byte* data() override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  CudaStream& stream_;
  const CudaMemory kind_;
  std::byte* const data_;
  const int64_t bytes_;
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(std::unique_ptr<CudaStream> stream, std::unique_ptr<CudaCopies> copies)
      : stream_(std::move(stream)), copies_(std::move(copies)) {}
  absl::string_view name() const override { return "cuda"; }
  const OpTable& ops() const override { return cuda::Ops(); }
  OpContext context() override { return OpContext(static_cast<void*>(stream_.get())); }
  absl::Status Synchronize() override { return stream_->Synchronize(); }
  int threads() const override { return stream_->team().threads(); }
  DeviceCopies& copies() override { return *copies_; }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override {
    return Allocate(CudaMemory::kManaged, bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateDevice(int64_t bytes) override {
    return Allocate(CudaMemory::kDevice, bytes);
  }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> AllocateHost(int64_t bytes) override {
    return Allocate(CudaMemory::kPinned, bytes);
  }

 private:
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(CudaMemory kind, int64_t bytes) {
    if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("cannot allocate ", bytes, " bytes"));
    if (bytes > std::numeric_limits<int64_t>::max() / 2) {
      return ToStatus({CudaResult::kOutOfMemory, "no device has so much"}, "memory", bytes);
    }
    ASSIGN_OR_RETURN(std::byte* const data, stream_->Allocate(kind, bytes));
    return std::make_unique<CudaBuffer>(*stream_, kind, data, bytes);
  }

  const std::unique_ptr<CudaStream> stream_;
  const std::unique_ptr<CudaCopies> copies_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackendOver(std::unique_ptr<CudaDriver> driver,
                                                             const BackendOptions& options) {
  if (options.threads < 1 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads is ", options.threads, "; the cuda backend takes 1 to ", kMaxThreads));
  }
  if (options.ops != "auto" && options.ops != cuda::Ops().name) {
    return absl::NotFoundError(
        absl::StrCat("ops \"", options.ops, "\" are unknown to the cuda backend; known: auto, ", cuda::Ops().name));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<CudaStream> stream, CudaStream::Create(std::move(driver), options.threads));
  ASSIGN_OR_RETURN(std::unique_ptr<CudaCopies> copies, CudaCopies::Create(*stream));
  return std::make_unique<CudaBackend>(std::move(stream), std::move(copies));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<CudaDriver> driver, MakeRuntimeDriver());
  return MakeCudaBackendOver(std::move(driver), options);
}

}  // namespace interlace
