// EventLoop: virtual time, and the order in which a simulation's events happen.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/executor.h"

namespace interlace::sim {

// Runs tasks at the times for which they were asked; of those that are due at once, the one that was asked for first.
// So one seed has one history. It folds what happens into a digest, by which two histories are compared. Owned by the
// simulation, outlives everything in it. Thread: one.
class EventLoop final : public Clock {
 public:
  absl::Time Now() override { return now_; }
  absl::Time now() const { return now_; }

  void At(absl::Time when, Task task) {
    heap_.push_back({std::max(when, now_), ++sequence_, std::move(task)});
    std::push_heap(heap_.begin(), heap_.end(), Later);
  }
  void After(absl::Duration delay, Task task) { At(now_ + delay, std::move(task)); }

  bool empty() const { return heap_.empty(); }
  // When the next event is due. Requires: not empty.
  absl::Time next() const { return heap_.front().when; }
  // Requires: not empty.
  void RunNext() {
    std::pop_heap(heap_.begin(), heap_.end(), Later);
    Event event = std::move(heap_.back());
    heap_.pop_back();
    now_ = event.when;
    ++events_;
    event.task();
  }

  // What happened, and when.
  void Note(uint64_t what) { digest_ = Mix(Mix(digest_ ^ what) ^ static_cast<uint64_t>(absl::ToUnixNanos(now_))); }
  uint64_t digest() const { return digest_; }
  int64_t events() const { return events_; }

 private:
  struct Event {
    absl::Time when;
    uint64_t sequence;
    Task task;
  };
  static bool Later(const Event& a, const Event& b) {
    return a.when != b.when ? a.when > b.when : a.sequence > b.sequence;
  }
  static uint64_t Mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    return z ^ (z >> 31);
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::vector<Event> heap_;  // the next event first
  uint64_t sequence_ = 0;
  uint64_t digest_ = 0;
  int64_t events_ = 0;
};

}  // namespace interlace::sim
