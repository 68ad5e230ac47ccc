#include "bench/serve/load_interval.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>

#include "bench/serve/load_figures.h"
#include "common/check.h"

namespace interlace {

Interval TInterval(absl::Span<const double> values, double confidence) {
  CHECK(values.size() >= 2);
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  for (const double v : values) squares += (v - mean) * (v - mean);
  const double error = std::sqrt(squares / (n - 1) / n);
  const double t = boost::math::quantile(boost::math::students_t(n - 1), 0.5 + confidence / 2);
  return {mean, mean - t * error, mean + t * error};
}

Interval PercentileInterval(double mean, std::vector<double> resamples, double confidence) {
  std::sort(resamples.begin(), resamples.end());
  return {mean, SortedQuantile(resamples, 0.5 - confidence / 2), SortedQuantile(resamples, 0.5 + confidence / 2)};
}

std::vector<size_t> DrawBlocks(size_t n, Entropy& entropy) {
  const auto block = static_cast<size_t>(std::max(1.0, std::round(std::sqrt(static_cast<double>(n)))));
  std::vector<size_t> drawn;
  drawn.reserve(n);
  while (drawn.size() < n) {
    const size_t begin = entropy.Next() % n;
    for (size_t i = 0; i < block && drawn.size() < n; ++i) drawn.push_back((begin + i) % n);
  }
  return drawn;
}

}  // namespace interlace
