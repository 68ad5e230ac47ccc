// The series of a server's /metrics, as numbers.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace interlace {

struct MetricSample {
  std::string name;  // of a histogram with _bucket, _sum or _count behind it
  std::map<std::string, std::string> labels;
  double value = 0;
};

// A value. What was read of the text; lines that are no samples are left out.
class MetricSamples {
 public:
  MetricSamples() = default;
  // `text`: of the Prometheus text format.
  explicit MetricSamples(absl::string_view text);

  std::vector<MetricSample> Of(absl::string_view name) const;
  // Over all labels; 0 if there is none.
  double Sum(absl::string_view name) const;
  // Of a histogram: the mean of what was observed; 0 if nothing was.
  double Mean(absl::string_view histogram) const;
  size_t size() const { return samples_.size(); }

 private:
  std::vector<MetricSample> samples_;
};

}  // namespace interlace
