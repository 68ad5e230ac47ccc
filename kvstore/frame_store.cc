#include "kvstore/frame_store.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "kvstore/block_codec.h"

namespace interlace {

int64_t FrameStride(int64_t payload_bytes) {
  constexpr int64_t kAlignment = 64;
  return (static_cast<int64_t>(kBlockHeaderBytes) + payload_bytes + kAlignment - 1) / kAlignment * kAlignment;
}

absl::StatusOr<std::unique_ptr<FrameStore>> FrameStore::Create(Backend& backend, int64_t host_bytes,
                                                               int64_t payload_bytes) {
  if (payload_bytes <= 0 || host_bytes < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame store of ", host_bytes, " bytes with payloads of ", payload_bytes, " bytes"));
  }
  const int64_t stride = FrameStride(payload_bytes);
  const int64_t frames = std::min<int64_t>(host_bytes / stride, std::numeric_limits<int32_t>::max());
  if (frames == 0) return std::unique_ptr<FrameStore>(new FrameStore(nullptr));
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceBuffer> memory, backend.AllocateHost(frames * stride));
  return std::unique_ptr<FrameStore>(new FrameStore(KvArena::Over(std::move(memory), stride)));
}

}  // namespace interlace
