#include "cli/top_command.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "cli/http_door.h"
#include "cli/terminal.h"
#include "cli/top_frame.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(2);
constexpr int kPipedWidth = 160;

absl::StatusOr<UiState> FetchState(const HttpDoor& door) {
  const absl::StatusOr<std::string> page = door.Get("/ui/state", kPatience);
  if (absl::IsNotFound(page.status())) {
    return absl::FailedPreconditionError("there is no /ui/state: the server runs with http.ui=false, or is another");
  }
  RETURN_IF_ERROR(page.status());
  return ParseUiState(*page);
}

// The screen while `top` runs: another buffer without a cursor, keys one by one and unechoed. All is as it was when
// this dies. Where standard output is no terminal it does nothing.
class Screen {
 public:
  Screen() : on_(StdoutIsTerminal()) {
    if (!on_) return;
    keys_ = isatty(STDIN_FILENO) == 1 && tcgetattr(STDIN_FILENO, &before_) == 0;
    if (keys_) {
      termios raw = before_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG);
      tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    Write("\x1b[?1049h\x1b[?25l\x1b[2J");
  }
  ~Screen() {
    if (!on_) return;
    Write("\x1b[0m\x1b[?25h\x1b[?1049l");
    if (keys_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  bool on() const { return on_; }
  bool keys() const { return keys_; }
  // Line by line over what is there, so that nothing flickers.
  void Show(const std::string& frame) {
    if (!on_) {
      std::printf("%s\n\n", frame.c_str());
      std::fflush(stdout);
      return;
    }
    Write(absl::StrCat("\x1b[H", absl::StrReplaceAll(frame, {{"\n", "\x1b[K\r\n"}}), "\x1b[K\x1b[J"));
  }

 private:
  static void Write(const std::string& bytes) {
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
  }
  const bool on_;
  bool keys_ = false;
  termios before_{};
};

struct Size {
  int width = kPipedWidth, height = 0;
};

Size SizeOfTerminal() {
  winsize size{};
  if (!StdoutIsTerminal()) return {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return {80, 24};
  return {size.ws_col, size.ws_row};
}

// Signals as something to wait for beside keys. They are blocked while this lives.
class Signals {
 public:
  Signals() {
    sigset_t set;
    sigemptyset(&set);
    for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH}) sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, &before_);
    file_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  }
  ~Signals() {
    close(file_);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  int file() const { return file_; }
  // Whether one of those that arrived asks for the end.
  bool TakeEnd() {
    signalfd_siginfo info;
    bool end = false;
    while (read(file_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) end |= info.ssi_signo != SIGWINCH;
    return end;
  }

 private:
  sigset_t before_;
  int file_ = -1;
};

enum class Woken { kTime, kWindow, kEnd };

// Until `until`, a key or signal that ends it, or a window of another size.
Woken Wait(const Screen& screen, Signals& signals, bool* keys_end, absl::Time until) {
  for (;;) {
    pollfd files[] = {{signals.file(), POLLIN, 0}, {screen.keys() && !*keys_end ? STDIN_FILENO : -1, POLLIN, 0}};
    const absl::Duration left = std::max(absl::ZeroDuration(), until - absl::Now());
    const int ready = poll(files, 2, static_cast<int>(absl::ToInt64Milliseconds(left + absl::Microseconds(999))));
    if (ready == 0) return Woken::kTime;
    if (files[0].revents != 0) return signals.TakeEnd() ? Woken::kEnd : Woken::kWindow;
    if (files[1].revents == 0) continue;
    char key[64];
    const ssize_t count = read(STDIN_FILENO, key, sizeof key);
    if (count <= 0) {
      *keys_end = true;  // nobody types any more
      continue;
    }
    const bool quits = std::any_of(key, key + count, [](char k) { return k == 'q' || k == 'Q' || k == '\x03'; });
    if (quits) return Woken::kEnd;
  }
}

TopView ViewOf(const TopOptions& options) {
  TopView view{.url = options.url};
  view.colour = StdoutHasColours();
  view.live = !options.once;
  return view;
}

}  // namespace

absl::Status TopCommand(const TopOptions& options) {
  if (!(options.interval >= 0.1 && options.interval <= 3600)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--interval ", options.interval, " is out of range: it must be 0.1 to 3600 seconds"));
  }
  ASSIGN_OR_RETURN(const HttpDoor door, HttpDoor::At(options.url, options.api_key));
  TopView view = ViewOf(options);
  if (options.once) {
    ASSIGN_OR_RETURN(view.state, FetchState(door));
    view.known = true;
    std::printf("%s\n", TopFrame(view, SizeOfTerminal().width, 0).c_str());
    return absl::OkStatus();
  }
  Signals signals;
  Screen screen;
  bool keys_end = false;
  for (;;) {
    const absl::Time next = absl::Now() + absl::Seconds(options.interval);
    absl::StatusOr<UiState> state = FetchState(door);
    if (state.ok()) {
      view.state = *std::move(state);
      view.known = true;
      view.trouble.clear();
    } else {
      view.trouble =
          absl::StrCat("no answer from ", options.url, ": ", state.status().message(), "; it is tried again");
    }
    Woken woken = Woken::kWindow;
    while (woken == Woken::kWindow) {
      const Size size = SizeOfTerminal();
      screen.Show(TopFrame(view, size.width, size.height));
      woken = Wait(screen, signals, &keys_end, next);
    }
    if (woken == Woken::kEnd) return absl::OkStatus();
  }
}

}  // namespace interlace
