// BoundedQueue: the only way threads hand over work.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace interlace {

// Many producers, many consumers, bounded, closable. After Close() pushes fail and pops drain what is left.
// The trap: TryPush on a full queue fails; a producer that must not lose the value uses Push, and may then wait.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // Waits for room. False iff closed; the value is then dropped.
  bool Push(T value) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &BoundedQueue::RoomOrClosed));
    if (closed_) return false;
    values_.push_back(std::move(value));
    return true;
  }

  // False iff full or closed. Never waits.
  bool TryPush(T value) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (closed_ || values_.size() >= capacity_) return false;
    values_.push_back(std::move(value));
    return true;
  }

  // Waits for a value. Empty iff closed and drained.
  std::optional<T> Pop() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &BoundedQueue::ValueOrClosed));
    return TakeLocked();
  }

  // As Pop, but gives up after `timeout`; empty then too.
  std::optional<T> PopWithin(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(this, &BoundedQueue::ValueOrClosed), timeout);
    return TakeLocked();
  }

  // The value that the next pop takes; null if there is none yet. For a consumer that is the only one: it may look at
  // the value, unlocked, until it pops.
  const T* Front() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return values_.empty() ? nullptr : &values_.front();
  }

  std::optional<T> TryPop() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return TakeLocked();
  }

  void Close() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }

  bool closed() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }

  size_t size() const ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return values_.size();
  }

 private:
  bool RoomOrClosed() const { return closed_ || values_.size() < capacity_; }
  bool ValueOrClosed() const { return closed_ || !values_.empty(); }
  std::optional<T> TakeLocked() {
    if (values_.empty()) return std::nullopt;
    std::optional<T> value(std::move(values_.front()));
    values_.pop_front();
    return value;
  }

  const size_t capacity_;
  mutable absl::Mutex mutex_;
  std::deque<T> values_;  // protected by mutex_
  bool closed_ = false;   // protected by mutex_
};

}  // namespace interlace
