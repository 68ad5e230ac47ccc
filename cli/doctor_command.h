// interlace doctor: whether this machine, or a running cluster, is as it should be.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "common/config.h"

namespace interlace {

struct DoctorOptions {
  std::string url;      // of a running cluster, which is looked at; empty: this machine is
  std::string api_key;  // an operator's; empty: none
  std::string version;  // of this tool
  bool json = false;
  bool quick = false;  // nothing is measured
};

// Prints what it finds. The exit status: 1 if anything fails. Not OK: it could not look, say because nobody answers.
absl::StatusOr<int> DoctorCommand(const Config& config, const DoctorOptions& options);

}  // namespace interlace
