// interlace bench reserve: how much memory to hold back when another request starts, in virtual time.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "cli/study_flags.h"
#include "common/config.h"

namespace interlace {

// As typed.
struct BenchReserveOptions {
  BenchReserveOptions();
  std::string policy = "swap", share = "0:12:0.2", cap = "1.8:7.5:0.2";
  double rate = 0;  // requests/s; 0: all at once
  int32_t seeds = 3;
  StudyLoadFlags load;
  StudyFileFlags files;
  std::string trace, trace_rule = "none";
  std::string command;  // the whole line

  void AddTo(CLI::App* command);
};

absl::Status BenchReserveCommand(const Config& config, const BenchReserveOptions& options);

}  // namespace interlace
