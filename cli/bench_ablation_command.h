// interlace bench ablation: what each part of serving buys on this machine.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "cli/study_flags.h"
#include "common/config.h"

namespace interlace {

// As typed.
struct BenchAblationOptions {
  BenchAblationOptions();
  int32_t batch = 8, rounds = 3, groups = 4, shared = 96;
  StudyLoadFlags load;
  StudyFileFlags files;
  std::string command;  // the whole line

  void AddTo(CLI::App* command);
};

absl::Status BenchAblationCommand(const Config& config, const BenchAblationOptions& options);

}  // namespace interlace
