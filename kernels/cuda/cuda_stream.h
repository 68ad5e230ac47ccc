// CudaStream: the stream that ops are queued on, with what they share: staged arguments, scratch, the first error.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/cuda/cuda_driver.h"
#include "kernels/cuda/staging_ring.h"
#include "kernels/op_context.h"
#include "kernels/thread_team.h"

namespace interlace {

// One array of an op's arguments on its way to the device: `device` is set by CudaStream::Stage.
struct StagedArray {
  const void* host = nullptr;
  int64_t bytes = 0;
  std::byte* device = nullptr;
};
template <typename T>
StagedArray ToStage(absl::Span<const T> array) {
  return {array.data(), static_cast<int64_t>(array.size() * sizeof(T)), nullptr};
}

// What an OpContext of the cuda backend points to. Owned by CudaBackend; thread: the runner.
// Ops answer nothing, so the first error stays here: from then on nothing is queued, and Synchronize returns it.
// The trap: the error of a kernel shows at a later call, so it names the op that was queued last.
class CudaStream {
 public:
  static absl::StatusOr<std::unique_ptr<CudaStream>> Create(std::unique_ptr<CudaDriver> driver, int threads);
  ~CudaStream();  // every buffer and the ring are gone by then
  static CudaStream& Of(const OpContext& on) { return *static_cast<CudaStream*>(on.stream()); }

  // ---- for ops; false: an error stands, return at once ----
  bool Begin(absl::string_view op);
  // Copies arrays of the host to the device, all at once. They are read before it returns.
  bool Stage(absl::Span<StagedArray> arrays);
  // Device scratch of `bytes`, valid for the op at hand; 256-byte aligned.
  bool Scratch(int64_t bytes, std::byte** out);
  template <typename Parameters>
  bool Launch(CudaKernel kernel, const CudaGrid& grid, const Parameters& parameters) {
    static_assert(std::is_trivially_copyable_v<Parameters>);
    return LaunchBytes(kernel, grid, &parameters, sizeof parameters);
  }
  bool Gemm(const CudaGemm& gemm);
  // `fill` writes `bytes` bytes that are copied to `to`; returns before they are there.
  bool Upload(std::byte* to, int64_t bytes, absl::FunctionRef<void(std::byte*)> fill);
  // Waits for the stream and brings `bytes` bytes to the host, at *out until the next Download.
  bool Download(const void* from, int64_t bytes, std::byte** out);
  void Fail(absl::Status status);

  // ---- for the backend ----
  absl::Status Synchronize();
  // kManaged is zeroed; the stream has done it when this returns. ResourceExhausted names the size.
  absl::StatusOr<std::byte*> Allocate(CudaMemory kind, int64_t bytes);
  // Waits for the ops that may still use it.
  void Free(CudaMemory kind, std::byte* memory);
  // The event comes when the ops queued so far are done.
  bool Record(CudaDriver::Event event) { return Keep(driver_->Record(event, stream_), "an event of copies"); }
  ThreadTeam& team() { return team_; }
  CudaDriver& driver() { return *driver_; }

 private:
  CudaStream(std::unique_ptr<CudaDriver> driver, int threads) : driver_(std::move(driver)), team_(threads) {}
  bool LaunchBytes(CudaKernel kernel, const CudaGrid& grid, const void* parameters, int64_t bytes);
  bool Keep(const CudaResult& result, absl::string_view what, int64_t bytes = 0);
  // Makes *memory hold at least `bytes`.
  bool Grow(CudaMemory kind, int64_t bytes, std::byte** memory, int64_t* capacity);

  std::unique_ptr<CudaDriver> driver_;
  ThreadTeam team_;  // of the sampler
  CudaDriver::Stream stream_ = nullptr;
  std::optional<StagingRing> ring_;
  std::byte* scratch_ = nullptr;
  int64_t scratch_bytes_ = 0;
  std::byte* download_ = nullptr;
  int64_t download_bytes_ = 0;
  bool queued_ = false;  // since the last Synchronize
  std::string op_ = "none";
  absl::Status status_;
};

// ResourceExhausted naming `bytes`, or Internal naming `what`.
absl::Status ToStatus(const CudaResult& result, absl::string_view what, int64_t bytes);

}  // namespace interlace
