// RestartBackoff: when a process that ended is started again.
#pragma once

#include "absl/time/time.h"

namespace interlace {

// The first end is followed by a start at once, the next ones by waits that double from a quarter of a second to half a
// minute. Each five seconds that the process then runs take one end off the count: what dies rarely is never given up,
// and what dies at once does not spin. Pure; owned by `serve`, one for each process; thread: one.
class RestartBackoff {
 public:
  void Started(absl::Time now) { started_ = now; }
  // The process ended; answers when to start it again.
  absl::Time Ended(absl::Time now);

 private:
  int count_ = 0;  // ends that are not forgiven
  absl::Time started_ = absl::InfinitePast();
};

}  // namespace interlace
