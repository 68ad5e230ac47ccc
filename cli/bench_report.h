// What `interlace bench` measured, as a table and as JSON.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/bench_ceilings.h"
#include "cli/bench_command.h"
#include "cli/bench_engine.h"
#include "cli/bench_profile.h"

namespace interlace {

struct BenchRound {
  double seconds = 0;
  Ceilings ceilings;  // probed just before
  double stolen = 0;  // share of the time since the probe that the hypervisor gave to others
  bool kept = true;
};

// One case on one set of threads and ops.
struct BenchRow {
  bool prefill = false;
  BenchShape shape;
  std::string ops;
  int threads = 0;
  Work work;  // of a round
  uint64_t logits_hash = 0;
  std::vector<BenchRound> rounds;
  std::optional<StepProfile> profile;
  std::string Name() const;  // "decode 8 x ctx 256"
};

// Loading the first engine's weights: from the pages that the system has of the file, or from the disk.
struct BenchLoad {
  double seconds = 0;
  int64_t file_bytes = 0;
  int64_t peak_bytes = 0;  // more than the process had resident before
};

struct BenchReport {
  std::string model, digest, architecture;
  BenchLoad load;
  int64_t chunk_tokens = 0, step_tokens = 0;
  std::vector<BenchRow> rows;
};

// A round counts unless its read bandwidth is more than a tenth below the median of all, or the hypervisor took more
// than 2 % of the time.
void DropDisturbedRounds(BenchReport* report);

// The q-quantile of values, between the two nearest. Requires: not empty.
double Quantile(std::vector<double> values, double q);

std::string BenchTable(const BenchReport& report);
absl::Status WriteBenchJson(const BenchReport& report, const std::string& path);

}  // namespace interlace
