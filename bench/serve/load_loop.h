// LoadLoop: the thread on which a run happens, and its clock.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "common/executor.h"

namespace boost::asio {
class io_context;
}

namespace interlace {

// Runs tasks when they are due. Owned by the command, for one run; all tasks run on the thread that calls Run.
class LoadLoop {
 public:
  virtual ~LoadLoop() = default;
  // Since the loop was made, on a monotonic clock. Any thread.
  virtual absl::Duration Now() = 0;
  // Runs the task at that time, or as soon as possible after it. Thread: the loop's, or any before Run.
  virtual void At(absl::Duration when, Task task) = 0;
  // Any thread.
  virtual void Post(Task task) = 0;
  // Returns after Stop.
  virtual void Run() = 0;
  // Thread: the loop's.
  virtual void Stop() = 0;
};

// The real one: sockets, timers and interrupts of Boost.Asio.
class AsioLoop final : public LoadLoop {
 public:
  AsioLoop();
  ~AsioLoop() override;
  absl::Duration Now() override;
  void At(absl::Duration when, Task task) override;
  void Post(Task task) override;
  void Run() override;
  void Stop() override;
  // SIGINT and SIGTERM run this, until the loop is destroyed, instead of ending the process; the second of them ends
  // it.
  void OnInterrupt(Task task);
  boost::asio::io_context& context();

 private:
  struct Inside;
  std::unique_ptr<Inside> in_;
};

}  // namespace interlace
