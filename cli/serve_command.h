// interlace serve: the whole cluster on this machine.
#pragma once

#include <signal.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/config.h"

namespace interlace {

struct ServeOptions {
  std::vector<std::string> settings;  // field=value, passed on to every process
  std::string config_file;            // passed on
  std::string program_folder;         // where interlace-coordinator and the others are
  std::string state_folder;           // logs, ready files; made if missing
  bool kvstore = false;               // start one and use it as the remote tier
};

// Starts coordinator, ranks and kvstore, shows how loading goes, prints URLs, starts each of them again that ended, and
// drains on `stop_signals` (which must be blocked). Returns when all have ended. If this process is killed, so are
// they.
absl::Status ServeCommand(const Config& config, const ServeOptions& options, const sigset_t& stop_signals);

}  // namespace interlace
