// How much memory to hold back when another request starts: search over the factors of the two naive rules, beside none
// and the quantile, in virtual time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/serve/load_interval.h"
#include "bench/study/layerkv_study.h"
#include "bench/study/study_run.h"

namespace interlace {

struct ReserveSearch {
  std::string rule;  // "share" or "cap"
  double from = 0, to = 0, step = 0.2;
};

struct ReserveOptions {
  const Policy* policy = nullptr;
  std::vector<ReserveSearch> searches = {{"share", 0, 12}, {"cap", 1.8, 7.5}};
  uint64_t first_seed = 1;
  int32_t seeds = 3;
  LoadPlanSpec load;  // of each run; its seed is set run by run
  VirtualRun base;    // machine, shape and the scheduler's options
  int threads = 1;
  std::string traced;  // rule whose run with the first seed is written down; empty: none
};

// What one run did.
struct ReserveFigures {
  double output_throughput = 0;  // tokens/s
  double traffic_in = 0;         // bytes from host to device
  double swaps = 0;              // requests parked, and parked ones that ran again
  double blocks_out = 0;         // blocks of all layers, copied to the host before their request had ended
  double ttft = 0, e2el = 0;     // means, seconds
  int64_t answered = 0, requests = 0;
};

struct ReservePoint {
  std::string rule;  // as sched.reserve: "share:1.2"
  double factor = 0;
  std::vector<ReserveFigures> seeds;
};

struct ReserveResult {
  ReserveOptions options;
  std::vector<ReservePoint> plain;                  // none, quantile
  std::vector<std::vector<ReservePoint>> searches;  // by search and factor
  std::vector<MemoryOperation> trace;
};

// Runs on `threads` threads at once; the result does not depend on how many. `progress` is called on this thread.
absl::StatusOr<ReserveResult> RunReserve(const ReserveOptions& options, const StudyProgress& progress);

// A figure over the seeds: with several a 95 % interval about the mean.
Interval OverSeeds(const ReservePoint& point, double ReserveFigures::*field);
// Factors of a search whose output throughput, seed by seed, is other than that of `none`: the 95 % interval of the
// ratio does not hold 1. One in twenty is by chance.
int FactorsThatDiffer(const ReserveResult& result, const std::vector<ReservePoint>& search);

// Cells, the first row the heading; of the searches every `every`-th factor.
std::vector<std::vector<std::string>> ReserveTable(const ReserveResult& result, int every);
std::string ReserveJson(const ReserveResult& result, const std::string& command);
std::string ReservePage(const ReserveResult& result, const std::vector<std::pair<std::string, std::string>>& facts);
// CSV: at_s, operation, request, first_block, blocks, layers.
std::string TraceCsv(const std::vector<MemoryOperation>& trace);

}  // namespace interlace
