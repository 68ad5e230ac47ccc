// The log of a process: spdlog to stderr, as text or as JSON lines.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace interlace {

// level: debug, info, warning, error; format: text, json. `process` is written on each line. Call once in main.
absl::Status InstallLogSink(const std::string& process, const std::string& level, const std::string& format);

}  // namespace interlace
