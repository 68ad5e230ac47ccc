// The figures that `bench compare` compares, computed from any draw of a run's requests. Pure.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/serve/load_figures.h"

namespace interlace {

// A run taken apart into requests, so that it can be put together again from a draw of them.
struct RequestSample {
  RequestFigures figures;
  std::vector<double> gaps;
  std::vector<double> thinned;  // every k-th of them, for resamples
  bool completed = false, shed = false, error = false;
  double input_tokens = 0, cached_tokens = 0;
};

struct RunSample {
  const LoadRun* run = nullptr;
  double seconds = 0;
  bool has_targets = false;
  std::vector<RequestSample> requests;
  size_t gap_count = 0;

  explicit RunSample(const LoadRun& from);
};

// Requests of a run, by index: all of them, or a resample.
struct RequestDraw {
  std::vector<size_t> requests;
  bool whole = false;
};
// Of a run in a resample; of more gaps every k-th is drawn.
inline constexpr size_t kMostGapsDrawn = 200000;

struct CompareMetric {
  std::string name;
  bool lower_is_better = true;
  bool is_share = false;
  // Empty where the run has no such figure.
  std::function<std::optional<double>(const RunSample&, const RequestDraw&)> value;
};
std::vector<CompareMetric> CompareMetrics();

}  // namespace interlace
