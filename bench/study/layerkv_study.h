// The LayerKV experiment: time to first token under policies and bounds on parked requests, at rates around the one
// that KV memory allows, and what it costs behind the first token.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/serve/load_figures.h"
#include "bench/study/study_run.h"

namespace interlace {

struct LayerKvOptions {
  std::vector<StudyLine> lines;
  std::vector<double> shares;  // rates, as shares of the KV-limited rate
  uint64_t first_seed = 1;
  int32_t seeds = 5;
  int32_t calibration = 40;  // requests of each burst that finds a rate
  LoadPlanSpec load;         // of each run; its rate and seed are set run by run
  bool simulate = false;     // each measured run again, in virtual time
};

// One measured run (or one in virtual time, where nothing is measured) of line x share x seed.
struct LayerKvPoint {
  size_t line = 0, share = 0;  // into the options
  uint64_t seed = 0;
  StudyRun measured;
  LoadFigures figures;  // of it
  int64_t same = 0;     // answers whose tokens are those of the first run that gave this request one
  int64_t compared = 0;
  std::optional<LoadFigures> simulated;
  double simulated_stall = 0, simulated_transferred = 0;  // as of StudyRun
  double slowness = 1;                                    // of the machine during the run, over all runs
};

struct LayerKvResult {
  LayerKvOptions options;
  bool real = false;      // on an engine, not in virtual time alone
  double kv_rate = 0;     // requests/s of a burst under fcfs: what gets through when requests wait for KV memory
  double cores_rate = 0;  // the same with room for all of them
  MachineLaw law;         // fitted over all runs, or what the runs in virtual time were given
  std::vector<LayerKvPoint> points;  // in the order of the runs
  bool interrupted = false;

  const LayerKvPoint* Find(size_t line, size_t share, uint64_t seed) const;
  std::vector<const LayerKvPoint*> At(size_t line, size_t share) const;  // all seeds
  std::optional<size_t> LineOf(absl::string_view policy) const;          // the first of that policy
};

// `make` makes the runs; `base` simulates them, its shape and law replaced by what was measured. Runs of all lines
// follow each other within a seed and a rate, each seed beginning with another line, so that a noisy machine hits all
// alike. `progress` is told before each run; may be empty. An error Cancelled from `make` ends the study with what it
// has.
using StudyProgress = std::function<void(const std::string& what, int32_t done, int32_t all)>;
absl::StatusOr<LayerKvResult> RunLayerKv(const LayerKvOptions& options, const MakeStudyRun& make, bool real,
                                         const VirtualRun& base, const StudyProgress& progress);

// Each at one line and share: medians over seeds.
struct LayerKvRow {
  size_t line = 0, share = 0;
  size_t seeds = 0;
  double ttft = 0, ttft_p99 = 0, second = 0, tpot_p99 = 0, gap_p99 = 0, e2el = 0, rate = 0, attained = 0, parks = 0;
  // Against the runs of fcfs with the same requests, where there are such: 1 is as good, and of times more is better.
  std::optional<double> ttft_factor, ttft_p99_factor, e2el_factor, throughput_ratio;
  std::optional<double> simulated_ttft;
  int64_t same = 0, compared = 0, answered = 0, requests = 0;
};
std::vector<LayerKvRow> LayerKvRows(const LayerKvResult& result);

// What the experiment is to show, and what it showed.
struct LayerKvClaim {
  std::string what, aim, seen;
  bool met = false;
};
std::vector<LayerKvClaim> LayerKvClaims(const LayerKvResult& result);

// Cells, the first row the heading.
std::vector<std::vector<std::string>> LayerKvTable(const LayerKvResult& result);
std::vector<std::vector<std::string>> LayerKvClaimTable(const LayerKvResult& result);
std::string LayerKvJson(const LayerKvResult& result, const std::string& command);
// Self-contained HTML. `facts` for its head, besides those of the runs.
std::string LayerKvPage(const LayerKvResult& result, const std::vector<std::pair<std::string, std::string>>& facts);

}  // namespace interlace
