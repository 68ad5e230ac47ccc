// Named threads that join. Nothing else in the tree starts a thread.
#pragma once

#include <string>
#include <thread>

#include "absl/functional/any_invocable.h"

namespace interlace {

// A thread that joins in its destructor. Owned by the object whose work it does. The trap: the owner must make the body
// return (close its queue) before the Thread member is destroyed, so declare the Thread last.
class Thread {
 public:
  Thread() = default;
  Thread(std::string name, absl::AnyInvocable<void()> body);  // name: at most 15 characters are shown by the system
  Thread(Thread&&) = default;
  Thread& operator=(Thread&&) = default;
  ~Thread() = default;
  void Join();
  bool joinable() const { return thread_.joinable(); }

 private:
  std::jthread thread_;
};

// Threads that this process can keep running at once: the cores it may run on, or fewer where a control group limits
// its time (cpu_quota.h).
int AvailableCores();

}  // namespace interlace
