#include "cli/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

// In the child, between fork and exec: calls of the system alone. Returns the error that kept it from becoming the
// program.
int Become(char* const* arguments, const char* log_path, pid_t parent) {
  // The child dies with `serve`, however that ends. If `serve` ended before the line above took effect, the child has
  // another parent by now and nobody would tell it.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return errno;
  if (getppid() != parent) return ESRCH;
  setpgid(0, 0);  // Ctrl-C reaches `serve` alone, which then drains the others in order
  const int in = open("/dev/null", O_RDONLY);
  const int out = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (in < 0 || out < 0) return errno;
  if (dup2(in, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0) return errno;
  if (in > STDERR_FILENO) close(in);
  if (out > STDERR_FILENO) close(out);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(arguments[0], arguments);
  return errno;
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::string& name, const std::vector<std::string>& command,
                                                 const std::string& log_path) {
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  int report[2];  // the child's error; closed without one by a successful exec
  if (pipe2(report, O_CLOEXEC) != 0) return absl::ResourceExhaustedError(absl::StrCat("pipe: ", strerror(errno)));
  const pid_t parent = getpid();
  ChildProcess child;
  child.name_ = name;
  child.log_path_ = log_path;
  child.pid_ = fork();
  if (child.pid_ == 0) {
    const int error = Become(arguments.data(), log_path.c_str(), parent);
    while (write(report[1], &error, sizeof error) < 0 && errno == EINTR) {
    }
    _exit(127);
  }
  const int fork_error = errno;
  close(report[1]);
  int error = 0;
  ssize_t got = 0;
  while (child.pid_ > 0 && (got = read(report[0], &error, sizeof error)) < 0 && errno == EINTR) {
  }
  close(report[0]);
  if (child.pid_ < 0) {
    return absl::ResourceExhaustedError(absl::StrCat(command[0], " cannot be started: ", strerror(fork_error)));
  }
  if (got > 0) return absl::NotFoundError(absl::StrCat(command[0], " cannot be started: ", strerror(error)));
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : name_(std::move(other.name_)), log_path_(std::move(other.log_path_)), pid_(std::exchange(other.pid_, -1)) {}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(log_path_, other.log_path_);
  std::swap(pid_, other.pid_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool ChildProcess::Poll(std::string* how) {
  int state = 0;
  if (pid_ <= 0 || waitpid(pid_, &state, WNOHANG) != pid_) return false;
  pid_ = -1;
  *how = WIFSIGNALED(state) ? absl::StrCat("signal ", WTERMSIG(state)) : absl::StrCat("exit ", WEXITSTATUS(state));
  return true;
}

void ChildProcess::Signal(int signal) {
  if (pid_ > 0) kill(pid_, signal);
}

}  // namespace interlace
