// ChildProcess: one process of the cluster that `interlace serve` started.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace interlace {

// Its output goes to a log file. Owned by Serve; thread: one. The trap: a child that was started is reaped by Poll or
// Wait, or it stays a zombie; the destructor kills and reaps.
class ChildProcess {
 public:
  ChildProcess() = default;
  // NotFound if the program is missing.
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
