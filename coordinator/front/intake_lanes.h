// IntakeLanes: the threads that parse and tokenise requests.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/executor.h"
#include "common/thread.h"

namespace interlace {

// Tasks by size: one thread takes small ones alone, so that none of them waits behind a large one; the others take
// large ones first. Owned by a door; Post from any thread. The destructor runs what was posted, then joins.
class IntakeLanes {
 public:
  static constexpr size_t kSmall = 64 << 10;  // bytes of text at most

  // `threads`: at least 2.
  explicit IntakeLanes(const std::string& name, int threads = ThreadsFor(AvailableCores()));
  ~IntakeLanes();
  // `bytes`: of the text that the task reads. Never waits.
  void Post(size_t bytes, Task task);
  // Ranks and the scheduler want the cores too.
  static int ThreadsFor(int cores) { return cores >= 8 ? 4 : cores >= 4 ? 3 : 2; }

 private:
  void Run(bool small_alone);

  absl::Mutex mutex_;
  std::deque<Task> small_, large_;  // protected by mutex_
  bool closed_ = false;             // protected by mutex_
  std::vector<Thread> threads_;
};

}  // namespace interlace
