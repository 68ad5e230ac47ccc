// interlace top: a running cluster, live, in a terminal.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace interlace {

struct TopOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;  // empty: none
  bool once = false;
  double interval = 1;  // seconds
};

// Until q, Ctrl-C or a signal that asks it to end; the terminal is then as it was. Where standard output is no
// terminal, a frame follows the other, without colours. Once: one frame; Unavailable if nobody answers. Otherwise it
// says so on the screen and goes on trying. Signals must not be blocked; the process's first thread.
absl::Status TopCommand(const TopOptions& options);

}  // namespace interlace
