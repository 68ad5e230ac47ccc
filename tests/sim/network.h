// Pipe: one direction of a simulated connection.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "tests/sim/chance.h"
#include "tests/sim/event_loop.h"

namespace interlace::sim {

// Messages arrive in the order in which they were sent, each a drawn time later, unless the pipe breaks first. A
// clogged pipe keeps them for later. A message is the task that its receiver runs. Held by both ends and by events that
// are under way. Thread: the simulation's.
class Pipe : public std::enable_shared_from_this<Pipe> {
 public:
  Pipe(EventLoop& loop, std::unique_ptr<Entropy> entropy, absl::Duration most_latency)
      : loop_(loop), entropy_(std::move(entropy)), most_latency_(most_latency) {}

  void Send(Task deliver) {
    if (broken_) return;
    last_ = std::max(last_, loop_.now() + DrawTime(*entropy_, absl::Microseconds(5), most_latency_));
    under_way_.push_back({last_, std::move(deliver)});
    PumpAt(last_);
  }
  // Nothing arrives from now on, and nothing is told to either end.
  void Break() {
    broken_ = true;
    under_way_.clear();
  }
  void ClogUntil(absl::Time when) { clogged_until_ = std::max(clogged_until_, when); }
  bool broken() const { return broken_; }

 private:
  struct Message {
    absl::Time due;
    Task deliver;
  };
  void PumpAt(absl::Time when) {
    loop_.At(when, [self = shared_from_this()] { self->Pump(); });
  }
  void Pump() {
    if (broken_ || under_way_.empty()) return;
    if (loop_.now() < clogged_until_) return PumpAt(clogged_until_);
    if (under_way_.front().due > loop_.now()) return;  // another pump comes
    Task deliver = std::move(under_way_.front().deliver);
    under_way_.pop_front();
    deliver();
  }

  EventLoop& loop_;
  const std::unique_ptr<Entropy> entropy_;
  const absl::Duration most_latency_;
  std::deque<Message> under_way_;
  absl::Time last_ = absl::InfinitePast();
  absl::Time clogged_until_ = absl::InfinitePast();
  bool broken_ = false;
};

}  // namespace interlace::sim
