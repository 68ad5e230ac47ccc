#include "cli/drain_command.h"

#include <poll.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "cli/drain_progress.h"
#include "cli/http_door.h"
#include "cli/terminal.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr int kLookMs = 250;

// On a terminal over the line before; else a line each time that it changes.
class ProgressLine {
 public:
  ~ProgressLine() {
    if (StdoutIsTerminal() && !shown_.empty()) std::printf("\n");
  }
  void Show(const std::string& line) {
    if (line == shown_) return;
    std::printf(StdoutIsTerminal() ? "\r%s\x1b[K" : "%s\n", line.c_str());
    std::fflush(stdout);
    shown_ = line;
  }

 private:
  std::string shown_;
};

absl::StatusOr<DrainProgress> Told(const absl::StatusOr<std::string>& body) {
  RETURN_IF_ERROR(body.status());
  return ParseDrainProgress(*body);
}

// The others go on meanwhile, and with what it had.
absl::StatusOr<int> DrainOneReplica(const DrainOptions& options, const HttpDoor& door) {
  const size_t number = static_cast<size_t>(*options.replica);
  const std::string body = absl::StrCat("{\"replica\":", number, "}");
  ProgressLine line;
  ASSIGN_OR_RETURN(DrainProgress progress, Told(door.Post(options.resume ? "/debug/resume" : "/debug/drain", body)));
  while (true) {
    if (number >= progress.replicas.size()) {
      return absl::InvalidArgumentError("/debug/drain answers nothing of the replica: is the server as new as this?");
    }
    const ReplicaProgress& replica = progress.replicas[number];
    line.Show(ReplicaLine(number, replica));
    if (options.resume || !options.wait || replica.left == 0) return 0;
    poll(nullptr, 0, kLookMs);
    ASSIGN_OR_RETURN(progress, Told(door.Get("/debug/drain")));
    if (number < progress.replicas.size() && !progress.replicas[number].draining) {
      return absl::AbortedError("the replica was told to resume meanwhile");
    }
  }
}

}  // namespace

absl::StatusOr<int> DrainCommand(const DrainOptions& options) {
  ASSIGN_OR_RETURN(const HttpDoor door, HttpDoor::At(options.url, options.api_key));
  if (options.replica) return DrainOneReplica(options, door);
  ProgressLine line;
  if (options.resume) {
    ASSIGN_OR_RETURN(const DrainProgress open, Told(door.Post("/debug/resume", "")));
    line.Show(DrainLine(open));
    return 0;
  }
  ASSIGN_OR_RETURN(const DrainProgress before, Told(door.Get("/debug/drain")));
  std::string body = "{}";
  if (options.timeout) body = absl::StrCat("{\"timeout_seconds\":", absl::ToDoubleSeconds(*options.timeout), "}");
  ASSIGN_OR_RETURN(DrainProgress progress, Told(door.Post("/debug/drain", body)));
  line.Show(DrainLine(progress));
  while (options.wait && progress.left > 0) {
    poll(nullptr, 0, kLookMs);
    ASSIGN_OR_RETURN(progress, Told(door.Get("/debug/drain")));
    if (!progress.draining) return absl::AbortedError("the server was told to resume meanwhile");
    line.Show(DrainLine(progress));
  }
  return progress.cut > before.cut ? 1 : 0;
}

}  // namespace interlace
