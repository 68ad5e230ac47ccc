// Two sets of load runs, before and after: paired ratios with intervals. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/serve/load_record.h"

namespace interlace {

struct CompareOptions {
  double tolerance = 0.05;  // a change within it is none
  double confidence = 0.95;
  int resamples = 1000;  // of the bootstrap
  uint64_t seed = 1;     // of the bootstrap's draws
};

enum class Change : uint8_t {
  kNone,       // the whole interval lies within the tolerance
  kUndecided,  // the interval reaches over the edge of the tolerance
  kBetter,     // the whole interval lies beyond the tolerance, in the good direction
  kWorse,      // likewise, in the bad direction: a regression
};
absl::string_view ChangeName(Change change);

// One figure of A and B at one load.
struct MetricChange {
  std::string metric;  // "ttft p99"
  bool lower_is_better = true;
  bool is_share = false;  // then change, low and high are differences B - A; else ratios B / A
  double a = 0, b = 0;    // means over the pairs; geometric for ratios. Seconds, requests/s, tokens/s or a share
  double change = 0, low = 0, high = 0;
  Change verdict = Change::kNone;
};

// All figures of the pairs at one load: one rate, data set and arrival process, any number of seeds.
struct LoadChange {
  std::string load;  // for people: "4 requests/s, fixed 256/64, poisson"
  int pairs = 0;
  // How the intervals were made: "t over 5 pairs" of log ratios (differences for shares) with at least three pairs,
  // else "bootstrap over requests".
  std::string interval;
  std::vector<MetricChange> metrics;
  int64_t texts_compared = 0, texts_equal = 0;  // answers to the same request, where both files keep texts
  std::vector<std::string> doubts;              // runs that are not valid or over-saturated
};

struct LoadComparison {
  std::vector<LoadChange> loads;
  std::vector<std::string> unpaired;  // runs of one file that the other lacks
  bool regressed() const;
};

// Several loads with three pairs or more together are also compared as one, in the last place. Pairs runs by data set,
// arrivals, rate, concurrency and seed; labels, servers and models may differ. InvalidArgument if nothing pairs.
absl::StatusOr<LoadComparison> CompareLoads(const std::vector<LoadRun>& a, const std::vector<LoadRun>& b,
                                            const CompareOptions& options);

}  // namespace interlace
