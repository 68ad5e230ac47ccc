#include "bench/serve/load_saturation.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace interlace {
namespace {

constexpr size_t kStretches = 10;
constexpr double kGrowth = 2;
constexpr double kNextLook = 1.25;  // times the time of the one before
constexpr int kLooks = 4;
constexpr size_t kLeastFirstTokens = 40;

// One-sided 99.9 % points of Student's t, by degrees of freedom.
double CriticalT(size_t degrees) {
  static constexpr double kT[] = {318.3, 22.33, 10.21, 7.173, 5.893, 5.208, 4.785, 4.501, 4.297};
  return degrees == 0 ? HUGE_VAL : kT[std::min(degrees, std::size(kT)) - 1];
}

}  // namespace

SaturationWatch::Trend SaturationWatch::TrendOf(const std::vector<Sample>& samples, absl::Duration begin,
                                                absl::Duration end) {
  std::vector<double> sum(kStretches), count(kStretches);
  const auto first = std::lower_bound(samples.begin(), samples.end(), begin,
                                      [](const Sample& sample, absl::Duration at) { return sample.at < at; });
  for (auto it = first; it != samples.end() && it->at < end; ++it) {
    const double share = absl::FDivDuration(it->at - begin, end - begin);
    const size_t stretch = std::min(kStretches - 1, static_cast<size_t>(share * kStretches));
    sum[stretch] += it->value;
    ++count[stretch];
  }
  // A line through the means of the stretches that have any; x counts stretches.
  double n = 0, x_mean = 0, y_mean = 0;
  for (size_t i = 0; i < kStretches; ++i) {
    if (count[i] == 0) continue;
    ++n;
    x_mean += static_cast<double>(i);
    y_mean += sum[i] / count[i];
  }
  if (n < 4) return {};
  x_mean /= n;
  y_mean /= n;
  double sxx = 0, sxy = 0, syy = 0;
  for (size_t i = 0; i < kStretches; ++i) {
    if (count[i] == 0) continue;
    const double dx = static_cast<double>(i) - x_mean, dy = sum[i] / count[i] - y_mean;
    sxx += dx * dx;
    sxy += dx * dy;
    syy += dy * dy;
  }
  const double slope = sxy / sxx;
  const double residual = std::max(0.0, syy - slope * sxy);
  const double error = std::sqrt(residual / (n - 2) / sxx);  // of the slope
  return {slope > 0 && slope > CriticalT(static_cast<size_t>(n) - 2) * error, y_mean - slope * x_mean,
          y_mean + slope * (kStretches - 1 - x_mean)};
}

std::string SaturationWatch::Verdict(absl::Duration now) {
  if (now < next_look_) return "";
  next_look_ = now * kNextLook;
  const absl::Duration begin = now / 3;  // what comes first is the server filling up
  const Trend open = TrendOf(open_, begin, now), ttft = TrendOf(ttft_, begin, now);
  const auto doubled = [](const Trend& t) { return t.rises && t.to >= kGrowth * t.from; };
  const bool both = doubled(open) && doubled(ttft) && open.to >= 4 && ttft_.size() >= kLeastFirstTokens;
  in_a_row_ = both ? in_a_row_ + 1 : 0;
  if (in_a_row_ < kLooks) return "";
  return absl::StrFormat(
      "over-saturated: in the last %.0f s open requests rose from %.0f to %.0f and the time to first token from %.2f s "
      "to "
      "%.2f s, both on a line",
      absl::ToDoubleSeconds(now - begin), std::max(0.0, open.from), open.to, std::max(0.0, ttft.from), ttft.to);
}

}  // namespace interlace
