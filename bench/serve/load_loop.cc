#include "bench/serve/load_loop.h"

#include <utility>  // before Asio, whose headers of this version need it
//
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <queue>

namespace interlace {

namespace net = boost::asio;
using Steady = std::chrono::steady_clock;

namespace {

struct Due {
  absl::Duration when;
  uint64_t order = 0;  // of equal times
  std::shared_ptr<Task> task;
  friend bool operator<(const Due& a, const Due& b) {  // the top of the queue is the earliest
    return std::pair(b.when, b.order) < std::pair(a.when, a.order);
  }
};

}  // namespace

struct AsioLoop::Inside {
  void Arm() {
    if (due.empty()) return;
    timer.expires_at(began + absl::ToChronoNanoseconds(due.top().when));
    timer.async_wait([this](boost::system::error_code error) {
      if (error) return;
      RunDue();
      Arm();
    });
  }
  void RunDue() {
    const absl::Duration now = absl::FromChrono(Steady::now() - began);
    while (!due.empty() && due.top().when <= now) {
      const std::shared_ptr<Task> task = due.top().task;
      due.pop();
      (*task)();
    }
  }
  void AwaitSignal() {
    signals.async_wait([this](boost::system::error_code error, int) {
      if (error) return;
      signals.clear();  // the next one has its usual effect
      if (on_interrupt) on_interrupt();
    });
  }

  const Steady::time_point began = Steady::now();
  net::io_context context{1};
  net::executor_work_guard<net::io_context::executor_type> work{context.get_executor()};
  net::steady_timer timer{context};
  net::signal_set signals{context};
  std::priority_queue<Due> due;
  uint64_t order = 0;
  Task on_interrupt;
};

AsioLoop::AsioLoop() : in_(std::make_unique<Inside>()) {}
AsioLoop::~AsioLoop() = default;

absl::Duration AsioLoop::Now() { return absl::FromChrono(Steady::now() - in_->began); }

void AsioLoop::At(absl::Duration when, Task task) {
  const bool first = in_->due.empty() || when < in_->due.top().when;
  in_->due.push({when, in_->order++, std::make_shared<Task>(std::move(task))});
  if (first) in_->Arm();
}

void AsioLoop::Post(Task task) {
  net::post(in_->context, [task = std::move(task)]() mutable { task(); });
}

void AsioLoop::Run() {
  in_->context.run();
  in_->context.restart();
}

void AsioLoop::Stop() { in_->context.stop(); }

void AsioLoop::OnInterrupt(Task task) {
  in_->on_interrupt = std::move(task);
  in_->signals.add(SIGINT);
  in_->signals.add(SIGTERM);
  in_->AwaitSignal();
}

net::io_context& AsioLoop::context() { return in_->context; }

}  // namespace interlace
