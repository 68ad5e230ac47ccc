// StagingRing: the way of small arrays from the host to the device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "kernels/cuda/cuda_driver.h"

namespace interlace {

// Pinned memory in kSegments parts, and device memory of the same size beside it. What the host puts down in the pinned
// memory is copied on the stream; a part is written again once the copies out of it are done, which an event tells.
// Owned by CudaStream; thread: its. The trap: a device address is good for ops queued before the next Stage only.
class StagingRing {
 public:
  StagingRing(CudaDriver& driver, CudaDriver::Stream stream, int64_t segment_bytes);
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  // `fill` writes `bytes` bytes, which the stream copies to the device; *out is where they then are, 256-byte aligned.
  // More than a segment makes the segments larger, which waits for the stream.
  CudaResult Stage(int64_t bytes, absl::FunctionRef<void(std::byte*)> fill, std::byte** out);
  // The same to memory of the caller's.
  CudaResult Upload(std::byte* to, int64_t bytes, absl::FunctionRef<void(std::byte*)> fill);
  int64_t segment_bytes() const { return segment_bytes_; }

 private:
  static constexpr int kSegments = 4;
  struct Segment {
    CudaDriver::Event event = nullptr;
    bool recorded = false;  // the event says when the copies out of this segment are done
  };

  // Room for `bytes` in one segment: offset_ is then its start.
  CudaResult Reserve(int64_t bytes);
  CudaResult Resize(int64_t segment_bytes);
  void Release();

  CudaDriver& driver_;
  const CudaDriver::Stream stream_;
  int64_t segment_bytes_;
  std::array<Segment, kSegments> segments_;
  std::byte* pinned_ = nullptr;
  std::byte* device_ = nullptr;
  int current_ = 0;
  int64_t offset_ = 0;  // in the current segment
};

}  // namespace interlace
