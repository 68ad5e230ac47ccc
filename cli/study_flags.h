// What the studies' commands have in common: their load as it is typed, how they get on, where they ran.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/serve/load_plan.h"
#include "bench/study/layerkv_study.h"
#include "common/config.h"

namespace CLI {
class App;
}

namespace interlace {

// The load of a study's runs: synthetic prompts of token ids, answers as long as they are asked for.
struct StudyLoadFlags {
  std::string prompt = "512", answer = "128";
  int64_t requests = 200;
  uint64_t seed = 1;
  void AddTo(CLI::App* command);
  // InvalidArgument names the flag.
  absl::StatusOr<LoadPlanSpec> Finish() const;
};

// Targets that every request has; "none" is none.
struct StudyTargetFlags {
  std::string ttft = "2s", tpot = "150ms", gap = "4s";
  void AddTo(CLI::App* command);
  absl::StatusOr<LoadTargets> Finish() const;
};

// Files to write; empty: none.
struct StudyFileFlags {
  std::string json, html;
  void AddTo(CLI::App* command);
  absl::Status CanWrite() const;
};

// "0.4,0.7,1", numbers above 0.
absl::StatusOr<std::vector<double>> ParsePositiveNumbers(const std::string& flag, const std::string& text);
// A count of at least 1, or InvalidArgument.
absl::Status CheckCount(const std::string& flag, int64_t value);

// A line on standard error: drawn over on a terminal, one after another elsewhere.
StudyProgress PrintStudyProgress();

// Model, hardware, KV memory and link, workload and command, for the head of a page.
std::vector<std::pair<std::string, std::string>> StudyFacts(const Config& config, const LoadPlanSpec& load,
                                                            const std::string& command);

}  // namespace interlace
