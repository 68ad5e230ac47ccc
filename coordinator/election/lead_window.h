// LeadWindow: until when this coordinator may act as leader.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "coordinator/election/lead_record.h"

namespace interlace {

// The election opens and extends it; whoever acts in the leader's name asks it each time, so that a process which was
// stopped or cut off finds its lead over before it says anything. Owned by Candidacy; any thread.
// The trap: a window that somebody found over stays closed, since something was not said then: Extend answers false,
// and Open goes with telling those who hold back what was to be said.
class LeadWindow {
 public:
  explicit LeadWindow(Clock& clock) : clock_(clock) {}

  bool Holds() {
    absl::MutexLock lock(&mutex_);
    if (clock_.Now() >= until_) until_ = absl::InfinitePast();
    return until_ != absl::InfinitePast();
  }
  // Infinite future: it is never over.
  void Open(absl::Time until) {
    absl::MutexLock lock(&mutex_);
    until_ = until;
    leader_.reset();
  }
  // False: it is over, and stays so.
  bool Extend(absl::Time until) {
    absl::MutexLock lock(&mutex_);
    if (clock_.Now() >= until_) until_ = absl::InfinitePast();
    if (until_ == absl::InfinitePast()) return false;
    until_ = until;
    return true;
  }
  void Close(std::optional<LeadRecord> leader) {
    absl::MutexLock lock(&mutex_);
    until_ = absl::InfinitePast();
    leader_ = std::move(leader);
  }
  // Who leads instead, as far as that is known.
  std::optional<LeadRecord> leader() {
    absl::MutexLock lock(&mutex_);
    return leader_;
  }

 private:
  Clock& clock_;
  absl::Mutex mutex_;
  absl::Time until_ = absl::InfinitePast();  // protected by mutex_
  std::optional<LeadRecord> leader_;         // protected by mutex_
};

}  // namespace interlace
