#include "cli/skip_logits.h"

#include <algorithm>
#include <cmath>

namespace interlace {

std::vector<float> LogSoftmax(absl::Span<const float> logits, int64_t vocab) {
  std::vector<float> out(logits.begin(), logits.end());
  for (size_t row = 0; row < out.size(); row += static_cast<size_t>(vocab)) {
    const auto begin = out.begin() + static_cast<ptrdiff_t>(row), end = begin + vocab;
    const float most = *std::max_element(begin, end);
    double sum = 0;
    for (auto it = begin; it != end; ++it) sum += std::exp(*it - most);
    const auto total = static_cast<float>(most + std::log(sum));
    for (auto it = begin; it != end; ++it) *it -= total;
  }
  return out;
}

double LeadOf(absl::Span<const float> logits) {
  float first = -HUGE_VALF, second = -HUGE_VALF;
  for (const float logit : logits) {
    if (logit > first) {
      second = first;
      first = logit;
    } else {
      second = std::max(second, logit);
    }
  }
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - first);
  return (1 - std::exp(second - first)) / sum;
}

int32_t FirstChoice(absl::Span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<RowDifference> CompareRows(absl::Span<const float> a, absl::Span<const float> b, int64_t vocab) {
  std::vector<RowDifference> rows;
  const auto width = static_cast<size_t>(vocab);
  for (size_t row = 0; row < a.size(); row += width) {
    const absl::Span<const float> p = a.subspan(row, width), q = b.subspan(row, width);
    double kl = 0;
    for (size_t i = 0; i < width; ++i) kl += std::exp(static_cast<double>(p[i])) * (p[i] - q[i]);
    rows.push_back({std::max(0.0, kl), FirstChoice(p) == FirstChoice(q)});
  }
  return rows;
}

}  // namespace interlace
