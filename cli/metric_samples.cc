#include "cli/metric_samples.h"

#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace interlace {
namespace {

// The labels between braces, of which the first is consumed already; false: they do not end as they should.
bool ReadLabels(absl::string_view* rest, std::map<std::string, std::string>* labels) {
  while (!absl::ConsumePrefix(rest, "}")) {
    const size_t equals = rest->find("=\"");
    if (equals == absl::string_view::npos) return false;
    const std::string name(absl::StripAsciiWhitespace(rest->substr(0, equals)));
    rest->remove_prefix(equals + 2);
    std::string value;
    while (!rest->empty() && rest->front() != '"') {
      if (rest->front() == '\\' && rest->size() > 1) rest->remove_prefix(1);  // \\, \" and \n
      value.push_back(rest->front());
      rest->remove_prefix(1);
    }
    if (!absl::ConsumePrefix(rest, "\"")) return false;
    (*labels)[name] = std::move(value);
    absl::ConsumePrefix(rest, ",");
  }
  return true;
}

std::optional<MetricSample> ReadSample(absl::string_view line) {
  MetricSample sample;
  const size_t end = line.find_first_of("{ ");
  if (line.empty() || line.front() == '#' || end == absl::string_view::npos) return std::nullopt;
  sample.name = std::string(line.substr(0, end));
  line.remove_prefix(end);
  if (absl::ConsumePrefix(&line, "{") && !ReadLabels(&line, &sample.labels)) return std::nullopt;
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
  if (words.empty() || !absl::SimpleAtod(words[0], &sample.value)) return std::nullopt;
  return sample;
}

}  // namespace

MetricSamples::MetricSamples(absl::string_view text) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    std::optional<MetricSample> sample = ReadSample(absl::StripAsciiWhitespace(line));
    if (sample.has_value()) samples_.push_back(*std::move(sample));
  }
}

std::vector<MetricSample> MetricSamples::Of(absl::string_view name) const {
  std::vector<MetricSample> found;
  for (const MetricSample& sample : samples_) {
    if (sample.name == name) found.push_back(sample);
  }
  return found;
}

double MetricSamples::Sum(absl::string_view name) const {
  double sum = 0;
  for (const MetricSample& sample : Of(name)) sum += std::isfinite(sample.value) ? sample.value : 0;
  return sum;
}

double MetricSamples::Mean(absl::string_view histogram) const {
  const double count = Sum(absl::StrCat(histogram, "_count"));
  return count > 0 ? Sum(absl::StrCat(histogram, "_sum")) / count : 0;
}

}  // namespace interlace
