#include "kernels/cuda/staging_ring.h"

namespace interlace {
namespace {

constexpr int64_t kAlignment = 256;
int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

#define RETURN_IF_NOT_OK(call)                       \
  do {                                               \
    if (CudaResult _r = (call); !_r.ok()) return _r; \
  } while (false)

StagingRing::StagingRing(CudaDriver& driver, CudaDriver::Stream stream, int64_t segment_bytes)
    : driver_(driver), stream_(stream), segment_bytes_(RoundUp(segment_bytes)) {}

StagingRing::~StagingRing() { Release(); }

void StagingRing::Release() {
  if (pinned_ != nullptr || device_ != nullptr) (void)driver_.Synchronize(stream_);
  if (pinned_ != nullptr) (void)driver_.Free(CudaMemory::kPinned, pinned_);
  if (device_ != nullptr) (void)driver_.Free(CudaMemory::kDevice, device_);
  for (Segment& segment : segments_) {
    if (segment.event != nullptr) (void)driver_.DestroyEvent(segment.event);
    segment = {};
  }
  pinned_ = device_ = nullptr;
  current_ = 0;
  offset_ = 0;
}

CudaResult StagingRing::Resize(int64_t segment_bytes) {
  Release();
  segment_bytes_ = RoundUp(segment_bytes);
  for (Segment& segment : segments_) RETURN_IF_NOT_OK(driver_.CreateEvent(&segment.event));
  void* memory = nullptr;
  RETURN_IF_NOT_OK(driver_.Allocate(CudaMemory::kPinned, kSegments * segment_bytes_, &memory));
  pinned_ = static_cast<std::byte*>(memory);
  RETURN_IF_NOT_OK(driver_.Allocate(CudaMemory::kDevice, kSegments * segment_bytes_, &memory));
  device_ = static_cast<std::byte*>(memory);
  return {};
}

CudaResult StagingRing::Reserve(int64_t bytes) {
  if (device_ == nullptr || bytes > segment_bytes_) {
    RETURN_IF_NOT_OK(Resize(bytes > segment_bytes_ ? 2 * bytes : segment_bytes_));
  }
  if (offset_ + bytes <= segment_bytes_) return {};
  // The next segment. The event comes after every copy out of the one that is left.
  RETURN_IF_NOT_OK(driver_.Record(segments_[current_].event, stream_));
  segments_[current_].recorded = true;
  current_ = (current_ + 1) % kSegments;
  offset_ = 0;
  if (segments_[current_].recorded) {
    RETURN_IF_NOT_OK(driver_.Await(segments_[current_].event));
    segments_[current_].recorded = false;
  }
  return {};
}

CudaResult StagingRing::Stage(int64_t bytes, absl::FunctionRef<void(std::byte*)> fill, std::byte** out) {
  RETURN_IF_NOT_OK(Reserve(bytes));
  // The device's copy of a segment is written again behind the ops that read it: the stream keeps the order.
  *out = device_ + current_ * segment_bytes_ + offset_;
  return Upload(*out, bytes, fill);
}

CudaResult StagingRing::Upload(std::byte* to, int64_t bytes, absl::FunctionRef<void(std::byte*)> fill) {
  if (bytes == 0) return {};
  RETURN_IF_NOT_OK(Reserve(bytes));
  std::byte* from = pinned_ + current_ * segment_bytes_ + offset_;
  offset_ += RoundUp(bytes);
  fill(from);
  return driver_.Copy(to, from, bytes, stream_);
}

}  // namespace interlace
