// ChildProcess: one process of the cluster that `interlace serve` started.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace interlace {

// Its output goes to a log file. It is killed when this process ends, even by SIGKILL: the kernel sees to it, so it
// must be started by a thread that lives as long as the process. Owned by Serve; thread: the main one. A child that
// ended is reaped by Poll, or it stays a zombie; the destructor kills and reaps.
class ChildProcess {
 public:
  ChildProcess() = default;
  // NotFound if the program is missing or cannot run.
  static absl::StatusOr<ChildProcess> Start(const std::string& name, const std::vector<std::string>& command,
                                            const std::string& log_path);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  const std::string& name() const { return name_; }
  const std::string& log_path() const { return log_path_; }
  pid_t pid() const { return pid_; }
  bool running() const { return pid_ > 0; }
  // Reaps it if it ended: true, with what became of it ("exit 1", "signal 9").
  bool Poll(std::string* how);
  void Signal(int signal);

 private:
  std::string name_;
  std::string log_path_;
  pid_t pid_ = -1;
};

}  // namespace interlace
