// SlowLink: copies between device and host that take as long as they would over a slower link.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "kernels/device_copies.h"

namespace interlace {

// On a machine whose device memory is its host memory, KV moves at the speed of memcpy. This makes each Finish return
// no sooner than the bytes before it would have arrived at `bytes_per_second`, so that experiments see the ratio
// between link and memory that an accelerator has. Both directions share the link. It waits asleep: the cores stay
// free. Owned by KvPool; threads as DeviceCopies.
class SlowLink final : public DeviceCopies {
 public:
  SlowLink(DeviceCopies& inner, int64_t bytes_per_second, Clock& clock)
      : inner_(inner), bytes_per_second_(bytes_per_second), clock_(clock) {}
  OpFence Mark() override { return inner_.Mark(); }
  void Copy(void* to, const void* from, int64_t bytes, const OpFence& after) override;
  absl::Status Finish() override;

 private:
  DeviceCopies& inner_;
  const int64_t bytes_per_second_;
  Clock& clock_;
  absl::Time begin_ = absl::InfiniteFuture();  // of the first copy since the last Finish
  int64_t bytes_ = 0;                          // since then
  absl::Time free_ = absl::InfinitePast();     // when the link has carried all before
};

}  // namespace interlace
