// DeviceCopies: copies between memory of the device and of the host, beside the ops.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"

namespace interlace {

// A point among the ops that were queued. Null: whatever was queued before it is done.
using OpFence = std::shared_ptr<void>;

// Owned by a Backend. Two threads use it at once: the runner marks, one other copies.
class DeviceCopies {
 public:
  virtual ~DeviceCopies() = default;
  // Thread: runner. The point after all ops that are queued now.
  virtual OpFence Mark() = 0;
  // Thread: the one that copies. Starts once the ops before `after` are done; both ends stay until Finish has returned.
  virtual void Copy(void* to, const void* from, int64_t bytes, const OpFence& after) = 0;
  // Waits for all copies since the last Finish. Not OK: none of them may have happened.
  virtual absl::Status Finish() = 0;
};

}  // namespace interlace
