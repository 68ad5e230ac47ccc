// interlace bench layerkv: the LayerKV experiment, measured, in virtual time, or both.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "cli/study_flags.h"
#include "common/config.h"

namespace interlace {

// As typed.
struct BenchLayerKvOptions {
  std::string policies = "fcfs,swap,stream,layerkv,slack", parked = "1,4,16,none", rates = "0.4,0.7,0.85,1,1.15,1.3";
  int32_t seeds = 5, calibration = 40;
  bool simulate = false;
  StudyLoadFlags load;
  StudyTargetFlags targets;
  StudyFileFlags files;
  std::string runs;     // file for all records, which bench page and bench compare read
  std::string command;  // the whole line

  void AddTo(CLI::App* command);
};

// Without a model it runs in virtual time alone, and needs `simulate`. Writes the files also when it is interrupted.
absl::Status BenchLayerKvCommand(const Config& config, const BenchLayerKvOptions& options);

}  // namespace interlace
