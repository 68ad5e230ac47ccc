// Gate: counts work in flight, refuses new work once closed, waits for zero.
#pragma once

#include "absl/synchronization/mutex.h"
#include "common/check.h"

namespace interlace {

// Any thread. Owned by the service whose work it counts. The trap: destroying a gate with work in flight is a bug of
// ours and aborts; call Close() first.
class Gate {
 public:
  Gate() = default;
  ~Gate() { CHECK_MSG(in_flight_ == 0, "a gate was destroyed with work in flight"); }

  // False iff closed.
  bool TryEnter() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (closed_) return false;
    ++in_flight_;
    return true;
  }
  void Leave() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    CHECK(in_flight_ > 0);
    --in_flight_;
  }
  // Refuses new work; does not wait.
  void Shut() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  // Refuses new work and waits until the work in flight has left.
  void Close() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    mutex_.Await(absl::Condition(this, &Gate::EmptyLocked));
  }
  int in_flight() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return in_flight_;
  }

 private:
  bool EmptyLocked() const { return in_flight_ == 0; }
  mutable absl::Mutex mutex_;
  int in_flight_ = 0;    // protected by mutex_
  bool closed_ = false;  // protected by mutex_
};

}  // namespace interlace
