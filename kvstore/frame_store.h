// FrameStore: host memory for sealed blocks in their stored form, cut into equal frames.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kvstore/kv_arena.h"

namespace interlace {

// A counted hold of one frame; gives it back when it dies. Move-only; thread: runner.
using HostFrame = ArenaSlot;

// A frame holds a header and a payload (block_codec.h). Its memory comes from Backend::AllocateHost, so that a device
// copies from and to it at full speed; a frame that was never used costs nothing on the CPU. Owned by Rank; thread:
// runner.
class FrameStore {
 public:
  // As many frames as fit into host_bytes; 0 frames if none does, so that nothing can be streamed. ResourceExhausted:
  // the machine does not have so much.
  static absl::StatusOr<std::unique_ptr<FrameStore>> Create(Backend& backend, int64_t host_bytes,
                                                            int64_t payload_bytes);
  HostFrame TryTake() { return frames_ == nullptr ? HostFrame() : frames_->TryTake(); }  // empty when all are held
  int32_t frames() const { return frames_ == nullptr ? 0 : frames_->slots(); }
  int32_t used() const { return frames_ == nullptr ? 0 : frames_->used(); }

 private:
  explicit FrameStore(std::unique_ptr<KvArena> frames) : frames_(std::move(frames)) {}
  const std::unique_ptr<KvArena> frames_;  // null: no frame fits
};

// The bytes that a frame takes of its store.
int64_t FrameStride(int64_t payload_bytes);

}  // namespace interlace
