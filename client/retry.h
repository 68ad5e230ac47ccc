// When a call that failed is tried again. Pure.
#pragma once

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace interlace {

// How a call ended.
struct CallEnd {
  absl::Status status;
  std::optional<absl::Duration> retry_after;  // as the server says: a request that is sent then is taken
  bool hopeless = false;                      // the server says that no try will do better
};

// How long to wait before try `tries` + 1 (the first is 1), nothing if there is to be none: servers that are away or
// full are tried again, and so is a name that the try before still holds. Waits double from `first_wait` on, up to 20
// times of it; `chance` in [0, 1) takes up to half of it off, so that clients that were cut together come back apart.
std::optional<absl::Duration> RetryIn(const CallEnd& end, int tries, absl::Duration first_wait, double chance);

}  // namespace interlace
