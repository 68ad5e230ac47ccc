// CudaCopies: copies on a stream of their own, after events of the ops' stream.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/device_copies.h"

namespace interlace {

// Owned by CudaBackend, which outlives every fence. Events are used again once their fence is gone.
class CudaCopies final : public DeviceCopies {
 public:
  static absl::StatusOr<std::unique_ptr<CudaCopies>> Create(CudaStream& ops);
  ~CudaCopies() override;
  OpFence Mark() override;
  void Copy(void* to, const void* from, int64_t bytes, const OpFence& after) override;
  absl::Status Finish() override;

 private:
  explicit CudaCopies(CudaStream& ops) : ops_(ops) {}
  bool Keep(const CudaResult& result);
  CudaDriver::Event TakeEvent();

  CudaStream& ops_;
  CudaDriver::Stream stream_ = nullptr;
  absl::Status status_;          // of the copies since the last Finish; thread: the one that copies
  OpFence waited_;               // the stream waits for it already
  std::vector<OpFence> fences_;  // of copies that are not finished
  absl::Mutex mutex_;
  std::vector<CudaDriver::Event> free_;  // protected by mutex_
};

}  // namespace interlace
