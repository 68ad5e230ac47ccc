// The largest rate at which the targets hold. Pure: the runs themselves are made by whoever calls.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/serve/load_figures.h"

namespace interlace {

struct CapacityOptions {
  double attainment = 0.99;  // share of requests that must meet all of their targets
  double start_rate = 1;     // requests/s; the search grows or shrinks by `growth` from here
  double growth = 2;
  double least_rate = 0.01, most_rate = 10000;
  double resolution = 0.05;           // bisection ends when the bracket is this narrow: high / low - 1
  std::vector<uint64_t> seeds = {1};  // each is searched by itself; the interval comes from their spread
  double confidence = 0.95;
};

struct CapacityStep {
  uint64_t seed = 0;
  double rate = 0;
  double share = 0;  // of requests that met all of their targets
  bool holds = false;
  std::string why;  // for people: what was seen and what the search does next
};

struct SeedCapacity {
  uint64_t seed = 0;
  double low = 0;   // largest rate seen to hold; 0: none did
  double high = 0;  // smallest rate seen to fail; infinite: none did
};

struct CapacityResult {
  double rate = 0;           // geometric mean over seeds of the largest rates that hold; 0: not even least_rate holds
  double low = 0, high = 0;  // t interval over seeds; of one seed its bracket
  // The search ended without a failing rate: capacity is at least `rate`. `stopped_because` says what ended it:
  // most_rate was reached, or the client itself was too late to measure more.
  bool at_least = false;
  std::string stopped_because;
  std::vector<SeedCapacity> seeds;
  std::vector<CapacityStep> steps;  // in the order of the runs
};

// Makes one run and tells its figures. The same seed must give the same requests and arrivals, scaled by the rate: the
// search relies on a seed's attainment falling with the rate.
using CapacityRun = std::function<absl::StatusOr<LoadFigures>(double rate, uint64_t seed)>;
// Called after each step, for a line on the terminal. May be empty.
using CapacityProgress = std::function<void(const CapacityStep&)>;

// For each seed: growth until a rate fails (or shrinking until one holds), then bisection of the logarithm. Later seeds
// begin at the earlier ones' result. A run that was stopped as over-saturated fails, whatever its share. MLPerf asks
// the p99 of TTFT and of TPOT each; here one share of requests meets all targets at once, which asks at least as much.
absl::StatusOr<CapacityResult> FindCapacity(const CapacityOptions& options, const CapacityRun& run,
                                            const CapacityProgress& progress);

}  // namespace interlace
