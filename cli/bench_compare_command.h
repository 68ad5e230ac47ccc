// interlace bench compare: two files of load runs beside each other, and whether the second is worse.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

struct BenchCompareOptions {
  std::string a, b;              // files that `interlace bench serve --json`, or vLLM's bench serve, wrote
  std::string tolerance = "5%";  // or 0.05
  std::string json;              // file for the comparison; "-": standard output in place of the table
  std::string html;              // file for a page with the runs of both
};

// "5%" or "0.05", at least 0 and below 1.
absl::StatusOr<double> ParseTolerance(absl::string_view text);

// Prints the table. The process's exit status: 1 if a figure got worse by more than the tolerance with the whole of its
// interval, else 0.
absl::StatusOr<int> BenchCompareCommand(const BenchCompareOptions& options);

}  // namespace interlace
