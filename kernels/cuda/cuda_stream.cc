#include "kernels/cuda/cuda_stream.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int64_t kSegmentBytes = int64_t{4} << 20;
constexpr int64_t kAlignment = 256;
constexpr int64_t kMostBlocksX = (int64_t{1} << 31) - 1, kMostBlocksY = 65535;

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

absl::Status ToStatus(const CudaResult& result, absl::string_view what, int64_t bytes) {
  switch (result.kind) {
    case CudaResult::kOk:
      return absl::OkStatus();
    case CudaResult::kOutOfMemory:
      return absl::ResourceExhaustedError(
          absl::StrCat("the cuda backend could not allocate ", bytes, " bytes (", what, "): ", result.text));
    case CudaResult::kFailed:
      break;
  }
  return absl::InternalError(absl::StrCat("cuda: ", what, ": ", result.text));
}

absl::StatusOr<std::unique_ptr<CudaStream>> CudaStream::Create(std::unique_ptr<CudaDriver> driver, int threads) {
  std::unique_ptr<CudaStream> stream(new CudaStream(std::move(driver), threads));
  RETURN_IF_ERROR(ToStatus(stream->driver_->CreateStream(&stream->stream_), "stream", 0));
  stream->ring_.emplace(*stream->driver_, stream->stream_, kSegmentBytes);
  return stream;
}

CudaStream::~CudaStream() {
  if (stream_ == nullptr) return;
  (void)driver_->Synchronize(stream_);
  ring_.reset();
  if (scratch_ != nullptr) (void)driver_->Free(CudaMemory::kDevice, scratch_);
  if (download_ != nullptr) (void)driver_->Free(CudaMemory::kPinned, download_);
  (void)driver_->DestroyStream(stream_);
}

void CudaStream::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

bool CudaStream::Keep(const CudaResult& result, absl::string_view what, int64_t bytes) {
  if (result.ok()) return true;
  Fail(ToStatus(result, what, bytes));
  return false;
}

bool CudaStream::Begin(absl::string_view op) {
  if (!status_.ok()) return false;
  op_ = std::string(op);
  return true;
}

bool CudaStream::Stage(absl::Span<StagedArray> arrays) {
  int64_t bytes = 0;
  for (const StagedArray& array : arrays) bytes += RoundUp(array.bytes);
  if (bytes == 0) return true;
  const auto fill = [&arrays](std::byte* to) {
    for (const StagedArray& array : arrays) {
      if (array.bytes > 0) std::memcpy(to, array.host, static_cast<size_t>(array.bytes));
      to += RoundUp(array.bytes);
    }
  };
  std::byte* device = nullptr;
  queued_ = true;
  if (!Keep(ring_->Stage(bytes, fill, &device), absl::StrCat(op_, ", arguments"), bytes)) return false;
  for (StagedArray& array : arrays) {
    array.device = device;
    device += RoundUp(array.bytes);
  }
  return true;
}

bool CudaStream::Grow(CudaMemory kind, int64_t bytes, std::byte** memory, int64_t* capacity) {
  if (bytes <= *capacity) return true;
  if (*memory != nullptr) {
    if (!Keep(driver_->Synchronize(stream_), op_)) return false;
    std::byte* former = std::exchange(*memory, nullptr);
    *capacity = 0;
    if (!Keep(driver_->Free(kind, former), op_)) return false;
  }
  const int64_t wanted = RoundUp(bytes);
  void* out = nullptr;
  if (!Keep(driver_->Allocate(kind, wanted, &out), absl::StrCat(op_, ", scratch"), wanted)) return false;
  *memory = static_cast<std::byte*>(out);
  *capacity = wanted;
  return true;
}

bool CudaStream::Scratch(int64_t bytes, std::byte** out) {
  if (!Grow(CudaMemory::kDevice, bytes, &scratch_, &scratch_bytes_)) return false;
  *out = scratch_;
  return true;
}

bool CudaStream::LaunchBytes(CudaKernel kernel, const CudaGrid& grid, const void* parameters, int64_t bytes) {
  if (grid.x <= 0 || grid.y <= 0) return true;
  if (grid.x > kMostBlocksX || grid.y > kMostBlocksY) {
    Fail(absl::InvalidArgumentError(absl::StrCat("cuda: ", op_, ": a grid of ", grid.x, " x ", grid.y, " blocks")));
    return false;
  }
  queued_ = true;
  return Keep(driver_->Launch(kernel, grid, parameters, bytes, stream_), op_);
}

bool CudaStream::Gemm(const CudaGemm& gemm) {
  if (gemm.m == 0 || gemm.n == 0) return true;
  CHECK(gemm.k > 0 && gemm.ldk >= gemm.k && gemm.ldk % 8 == 0);
  queued_ = true;
  return Keep(driver_->Gemm(gemm, stream_), absl::StrCat(op_, " [", gemm.n, ", ", gemm.k, "] x [", gemm.m, "]"));
}

bool CudaStream::Upload(std::byte* to, int64_t bytes, absl::FunctionRef<void(std::byte*)> fill) {
  queued_ = true;
  return Keep(ring_->Upload(to, bytes, fill), absl::StrCat(op_, ", upload"), bytes);
}

bool CudaStream::Download(const void* from, int64_t bytes, std::byte** out) {
  if (!Grow(CudaMemory::kPinned, std::max<int64_t>(bytes, 1), &download_, &download_bytes_)) return false;
  if (bytes > 0 && !Keep(driver_->Copy(download_, from, bytes, stream_), absl::StrCat(op_, ", download"))) return false;
  queued_ = true;
  *out = download_;
  return Synchronize().ok();
}

absl::Status CudaStream::Synchronize() {
  if (!queued_ || !status_.ok()) return status_;
  if (Keep(driver_->Synchronize(stream_), absl::StrCat("an op at or before ", op_))) queued_ = false;
  return status_;
}

absl::StatusOr<std::byte*> CudaStream::Allocate(CudaMemory kind, int64_t bytes) {
  RETURN_IF_ERROR(status_);
  constexpr absl::string_view kNames[] = {"memory of both sides", "memory of the device", "pinned memory"};
  const int64_t wanted = RoundUp(std::max<int64_t>(bytes, 1));
  void* memory = nullptr;
  RETURN_IF_ERROR(ToStatus(driver_->Allocate(kind, wanted, &memory), kNames[static_cast<size_t>(kind)], bytes));
  if (kind != CudaMemory::kManaged) return static_cast<std::byte*>(memory);
  queued_ = true;
  if (!Keep(driver_->Fill(memory, 0, wanted, stream_), "clearing memory") || !Synchronize().ok()) {
    (void)driver_->Free(kind, memory);
    return status_;
  }
  return static_cast<std::byte*>(memory);
}

void CudaStream::Free(CudaMemory kind, std::byte* memory) {
  if (queued_) (void)driver_->Synchronize(stream_);
  (void)driver_->Free(kind, memory);
}

}  // namespace interlace
