// interlace bench page: files of load runs as one page, such as one file per policy.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace interlace {

struct BenchPageOptions {
  std::vector<std::string> files;  // that `interlace bench serve --json`, or vLLM's bench serve, wrote
  std::string html;                // the page
  std::string title = "Load report";
  std::string json, csv;  // files for all runs together
};

// A line of the page per label; runs without one take the name of their file where there are several.
absl::Status BenchPageCommand(const BenchPageOptions& options);

}  // namespace interlace
