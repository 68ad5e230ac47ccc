#include "kernels/cuda/cuda_backend.h"

#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/cuda_stream.h"

namespace interlace {
namespace {

constexpr int kMaxThreads = 1024;

// Memory that both sides reach. It waits for the stream when it dies.
class ManagedBuffer final : public DeviceBuffer {
 public:
  ManagedBuffer(CudaStream& stream, std::byte* data, int64_t bytes) : stream_(stream), data_(data), bytes_(bytes) {}
  ~ManagedBuffer() override { stream_.Free(data_); }
  ManagedBuffer(const ManagedBuffer&) = delete;
  ManagedBuffer& operator=(const ManagedBuffer&) = delete;
  std::byte* data() override { return data_; }
  int64_t bytes() const override { return bytes_; }

 private:
  CudaStream& stream_;
  std::byte* const data_;
  const int64_t bytes_;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::unique_ptr<CudaStream> stream) : stream_(std::move(stream)) {}
  absl::string_view name() const override { return "cuda"; }
  const OpTable& ops() const override { return cuda::Ops(); }
  OpContext context() override { return OpContext(static_cast<void*>(stream_.get())); }
  absl::Status Synchronize() override { return stream_->Synchronize(); }
  int threads() const override { return stream_->team().threads(); }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(int64_t bytes) override {
    if (bytes < 0) return absl::InvalidArgumentError(absl::StrCat("cannot allocate ", bytes, " bytes"));
    if (bytes > std::numeric_limits<int64_t>::max() / 2) {
      return ToStatus({CudaResult::kOutOfMemory, "no device has so much"}, "memory of both sides", bytes);
    }
    ASSIGN_OR_RETURN(std::byte* const data, stream_->Allocate(bytes));
    return std::make_unique<ManagedBuffer>(*stream_, data, bytes);
  }

 private:
  const std::unique_ptr<CudaStream> stream_;
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
  return std::make_unique<CudaBackend>(std::move(stream));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const BackendOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<CudaDriver> driver, MakeRuntimeDriver());
  return MakeCudaBackendOver(std::move(driver), options);
}

}  // namespace interlace
