// interlace status: one page of a running cluster.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace interlace {

struct StatusOptions {
  std::string url = "http://127.0.0.1:8000";
  std::string api_key;  // an operator's; empty: none
  bool json = false;
};

// The exit status: 0 if the cluster takes requests, 1 if it drains or lacks ranks. Not OK: nobody answers.
absl::StatusOr<int> StatusCommand(const StatusOptions& options);

}  // namespace interlace
