#include "coordinator/front/intake_lanes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace interlace {

IntakeLanes::IntakeLanes(const std::string& name, int threads) {
  for (int i = 0; i < std::max(2, threads); ++i) {
    threads_.emplace_back(absl::StrCat(name, "-", i), [this, small_alone = i == 0] { Run(small_alone); });
  }
}

IntakeLanes::~IntakeLanes() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  for (Thread& thread : threads_) thread.Join();
}

void IntakeLanes::Post(size_t bytes, Task task) {
  absl::MutexLock lock(&mutex_);
  (bytes <= kSmall ? small_ : large_).push_back(std::move(task));
}

void IntakeLanes::Run(bool small_alone) {
  const auto ready = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return closed_ || !small_.empty() || (!small_alone && !large_.empty());
  };
  while (true) {
    Task task;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&ready));
      std::deque<Task>& lane = !small_alone && !large_.empty() ? large_ : small_;
      if (lane.empty()) return;  // closed, and nothing is left for this thread
      task = std::move(lane.front());
      lane.pop_front();
    }
    task();
  }
}

}  // namespace interlace
