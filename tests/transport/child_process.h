// A child process of a test: started from a binary, killed and reaped with the object.
#pragma once

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

extern char** environ;

namespace interlace {

class ChildProcess {
 public:
  ChildProcess(std::string binary, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), binary);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    if (posix_spawn(&pid_, binary.c_str(), nullptr, nullptr, argv.data(), environ) != 0) pid_ = -1;
  }
  ~ChildProcess() {
    Signal(SIGKILL);
    Wait();
  }
  ChildProcess(const ChildProcess&) = delete;

  bool started() const { return pid_ > 0; }
  void Signal(int signal) {
    if (pid_ > 0) kill(pid_, signal);
  }
  // Returns once every thread of the child has stopped.
  void Stop() {
    Signal(SIGSTOP);
    int status = 0;
    if (pid_ > 0) waitpid(pid_, &status, WUNTRACED);
  }
  // False once the child has ended; it still has to be waited for.
  bool Running() {
    siginfo_t info{};
    return pid_ > 0 && waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0;
  }
  // Exit status as of waitpid; -1 if it was reaped before.
  int Wait() {
    if (pid_ <= 0) return -1;
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
};

}  // namespace interlace
