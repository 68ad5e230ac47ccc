// Clock: the only source of time for core code.
#pragma once

#include "absl/time/time.h"

namespace interlace {

// Monotonic time. Owned by main; any thread. The trap: Now() has an arbitrary epoch, so it is never printed as a date
// and never sent to another process; deadlines travel as remaining time.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() = 0;
};

// The machine's steady clock.
class RealClock final : public Clock {
 public:
  absl::Time Now() override;
};

// A clock that moves only when told to. Thread: one.
class ManualClock final : public Clock {
 public:
  absl::Time Now() override { return now_; }
  void Advance(absl::Duration by) { now_ += by; }

 private:
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
};

// The date, for what leaves the process.
absl::Time WallTime();

// Wall-clock seconds since 1970, for `created` fields and logs only.
int64_t WallSeconds();

}  // namespace interlace
