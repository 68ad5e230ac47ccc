// What each part of serving buys: one request at a time without a KV cache, with it, static and continuous batching,
// shared prefixes, KV by layer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/study/engine_client.h"
#include "bench/study/layerkv_study.h"
#include "bench/study/study_run.h"

namespace interlace {

// One row: what is on.
struct AblationMode {
  std::string name, meaning;
  std::string policy;          // sched.policy
  EngineClientOptions client;  // what is left out
  int32_t concurrency = 1;     // requests open at once
};
// Each has what the one before it has, and one thing more.
std::vector<AblationMode> AblationModes(int32_t batch);

struct AblationOptions {
  int32_t batch = 8;
  int32_t rounds = 3;  // all modes follow each other within a round
  LoadPlanSpec load;   // the same requests in every mode; lengths are forced
};
using MakeAblationRun = std::function<absl::StatusOr<StudyRun>(const AblationMode& mode, const LoadPlanSpec& plan)>;

// Where the time of a decode step goes, in microseconds.
struct AblationProfile {
  int32_t batch = 0, context = 0;
  double total = 0, embedding = 0, head = 0, sampler = 0, outside = 0;  // outside: of kernels
  std::vector<double> layers;
};

struct AblationRow {
  AblationMode mode;
  int64_t requests = 0, answered = 0;
  int64_t prompt_tokens = 0, output_tokens = 0;
  int64_t computed = 0;            // positions that the model computed for them
  int64_t same = 0, compared = 0;  // answers that equal, token by token, the first that the request got in any row
  double seconds = 0, ttft = 0, gap_p99 = 0;  // medians of the rounds; ttft: mean of the requests
};

struct AblationResult {
  AblationOptions options;
  std::vector<AblationRow> rows;
  AblationProfile profile;  // set by the caller; without layers: not made
  bool interrupted = false;
};

// An error Cancelled from `make` ends it with the rounds that are whole.
absl::StatusOr<AblationResult> RunAblation(const AblationOptions& options, const MakeAblationRun& make,
                                           const StudyProgress& progress);

std::vector<std::vector<std::string>> AblationTable(const AblationResult& result);
std::vector<std::vector<std::string>> AblationProfileTable(const AblationProfile& profile);
std::string AblationJson(const AblationResult& result, const std::string& command);
std::string AblationPage(const AblationResult& result, const std::vector<std::pair<std::string, std::string>>& facts);

}  // namespace interlace
