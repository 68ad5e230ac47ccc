// interlace bench skip: what each sublayer of a model is worth, prompt by prompt, what drafts without some gain, and
// what answers without some are worth.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/study_flags.h"
#include "common/config.h"

namespace interlace {

// As typed.
struct BenchSkipOptions {
  std::vector<std::string> tasks;  // NAME=FILE
  int32_t texts = 4;               // of each task
  int32_t tokens = 128;            // of each text, at most
  int32_t rows = 48, depth = 4, outputs = 32;
  std::string shares = "0.1,0.2,0.3,0.45";
  bool no_drafts = false, no_quality = false;
  // Shares of the layers, and leads; "none": no such ways.
  std::string truncate = "0.5,0.7,0.8,0.9", looks = "0.5,0.75", leads = "0.5,0.8,0.95";
  std::vector<std::string> accuracy;  // KIND[:ITEMS][=FILE]
  int32_t items = 20, shots = 3, needle_words = 250;
  bool own_accuracy = false;
  uint64_t seed = 1;
  StudyFileFlags files;
  std::string command;  // the whole line

  void AddTo(CLI::App* command);
};

absl::Status BenchSkipCommand(const Config& config, const BenchSkipOptions& options);

}  // namespace interlace
