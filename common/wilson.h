// Wilson's score interval of a share (1927). Pure.
#pragma once

#include <algorithm>
#include <cmath>

namespace interlace {

// The bound of the share of which `right` of `tried` were seen, `deviations` standard deviations away: below 0 the
// lower bound, else the upper one. 0 and 1 while nothing was tried.
inline double WilsonBound(double right, double tried, double deviations) {
  if (tried <= 0) return deviations < 0 ? 0 : 1;
  const double share = right / tried, zz = deviations * deviations / tried;
  const double middle = share + zz / 2;
  const double reach = deviations * std::sqrt(share * (1 - share) / tried + zz / (4 * tried));
  return std::clamp((middle + reach) / (1 + zz), 0.0, 1.0);
}

}  // namespace interlace
