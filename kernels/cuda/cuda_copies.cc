#include "kernels/cuda/cuda_copies.h"

#include <utility>

#include "common/status_macros.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<CudaCopies>> CudaCopies::Create(CudaStream& ops) {
  std::unique_ptr<CudaCopies> copies(new CudaCopies(ops));
  RETURN_IF_ERROR(ToStatus(ops.driver().CreateStream(&copies->stream_), "stream of copies", 0));
  return copies;
}

CudaCopies::~CudaCopies() {
  if (stream_ == nullptr) return;
  (void)Finish();
  (void)ops_.driver().DestroyStream(stream_);
  absl::MutexLock lock(&mutex_);
  for (CudaDriver::Event event : free_) (void)ops_.driver().DestroyEvent(event);
}

CudaDriver::Event CudaCopies::TakeEvent() {
  {
    absl::MutexLock lock(&mutex_);
    if (!free_.empty()) {
      CudaDriver::Event event = free_.back();
      free_.pop_back();
      return event;
    }
  }
  CudaDriver::Event event = nullptr;
  if (CudaResult r = ops_.driver().CreateEvent(&event); !r.ok()) ops_.Fail(ToStatus(r, "event of copies", 0));
  return event;
}

OpFence CudaCopies::Mark() {
  CudaDriver::Event event = TakeEvent();
  if (event == nullptr) return nullptr;  // no op runs from now on: the stream holds the error
  ops_.Record(event);
  return OpFence(event, [this](CudaDriver::Event done) {
    absl::MutexLock lock(&mutex_);
    free_.push_back(done);
  });
}

bool CudaCopies::Keep(const CudaResult& result) {
  if (!result.ok() && status_.ok()) status_ = ToStatus(result, "copy of KV", 0);
  return status_.ok();
}

void CudaCopies::Copy(void* to, const void* from, int64_t bytes, const OpFence& after) {
  if (after != nullptr && after != waited_) {
    if (!Keep(ops_.driver().WaitEvent(stream_, after.get()))) return;
    waited_ = after;
    fences_.push_back(after);
  }
  Keep(ops_.driver().Copy(to, from, bytes, stream_));
}

absl::Status CudaCopies::Finish() {
  Keep(ops_.driver().Synchronize(stream_));
  waited_ = nullptr;
  fences_.clear();
  return std::exchange(status_, absl::OkStatus());
}

}  // namespace interlace
