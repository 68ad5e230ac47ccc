// Confidence intervals of means, and draws for the bootstrap. Pure.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/types/span.h"
#include "common/entropy.h"

namespace interlace {

struct Interval {
  double mean = 0, low = 0, high = 0;
};

// Student's t over independent values. Requires: at least two.
Interval TInterval(absl::Span<const double> values, double confidence);

// The middle `confidence` of what the resamples gave, about the mean of the whole. Requires: resamples not empty.
Interval PercentileInterval(double mean, std::vector<double> resamples, double confidence);

// n indices below n, drawn in runs of about sqrt(n) neighbours: requests of a run wait for each other, and single draws
// would take them for independent.
std::vector<size_t> DrawBlocks(size_t n, Entropy& entropy);

}  // namespace interlace
