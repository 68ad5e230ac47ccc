#include "common/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <map>
#include <variant>

#include "absl/strings/str_split.h"
#include "common/check.h"

namespace interlace {
namespace {

using Family = std::variant<prometheus::Family<prometheus::Counter>*, prometheus::Family<prometheus::Gauge>*,
                            prometheus::Family<prometheus::Histogram>*>;

const prometheus::Histogram::BucketBoundaries kSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                          0.5,   1,      2.5,   5,    10,    30,   60};

Family MakeFamily(const MetricRow& row, const prometheus::Labels& constant, prometheus::Registry& registry) {
  const std::string name(row.name), help(row.meaning);
  switch (row.kind) {
    case MetricKind::kCounter:
      return &prometheus::BuildCounter().Name(name).Help(help).Labels(constant).Register(registry);
    case MetricKind::kGauge:
      return &prometheus::BuildGauge().Name(name).Help(help).Labels(constant).Register(registry);
    case MetricKind::kHistogram:
      return &prometheus::BuildHistogram().Name(name).Help(help).Labels(constant).Register(registry);
  }
  return {};
}

}  // namespace

struct Metrics::Registry {
  prometheus::Registry registry;
  std::map<absl::string_view, Family> families;

  template <typename Kind>
  prometheus::Family<Kind>& Of(absl::string_view name, MetricLabels labels) {
    auto it = families.find(name);
    CHECK_MSG(it != families.end(), std::string(name).c_str());
    CHECK_MSG(std::holds_alternative<prometheus::Family<Kind>*>(it->second), std::string(name).c_str());
    const MetricRow& row =
        *std::find_if(std::begin(kMetrics), std::end(kMetrics), [&](const MetricRow& r) { return r.name == name; });
    const std::vector<absl::string_view> known = absl::StrSplit(row.labels, ',', absl::SkipEmpty());
    CHECK_MSG(known.size() == labels.size(), std::string(name).c_str());
    for (const auto& [key, value] : labels) {
      CHECK_MSG(std::find(known.begin(), known.end(), key) != known.end(), std::string(name).c_str());
    }
    return *std::get<prometheus::Family<Kind>*>(it->second);
  }
};

namespace {
prometheus::Labels ToLabels(MetricLabels labels) {
  prometheus::Labels out;
  for (const auto& [key, value] : labels) out.emplace(key, value);
  return out;
}
}  // namespace

Metrics::Metrics(std::string model_name) : registry_(std::make_unique<Registry>()) {
  const prometheus::Labels constant{{"model_name", std::move(model_name)}};
  for (const MetricRow& row : kMetrics) {
    registry_->families.emplace(row.name, MakeFamily(row, constant, registry_->registry));
    if (!row.labels.empty()) continue;  // a series without labels shows from the start
    switch (row.kind) {
      case MetricKind::kCounter:
        Add(row.name, 0);
        break;
      case MetricKind::kGauge:
        Set(row.name, 0);
        break;
      case MetricKind::kHistogram:
        registry_->Of<prometheus::Histogram>(row.name, {}).Add({}, kSeconds);
        break;
    }
  }
}

Metrics::~Metrics() = default;

void Metrics::Add(absl::string_view counter, double amount, MetricLabels labels) {
  registry_->Of<prometheus::Counter>(counter, labels).Add(ToLabels(labels)).Increment(amount);
}
void Metrics::Set(absl::string_view gauge, double value, MetricLabels labels) {
  registry_->Of<prometheus::Gauge>(gauge, labels).Add(ToLabels(labels)).Set(value);
}
void Metrics::Observe(absl::string_view histogram, double seconds, MetricLabels labels) {
  registry_->Of<prometheus::Histogram>(histogram, labels).Add(ToLabels(labels), kSeconds).Observe(seconds);
}

std::string Metrics::Text() const { return prometheus::TextSerializer().Serialize(registry_->registry.Collect()); }

double Metrics::Total(absl::string_view name) const {
  double total = 0;
  for (const prometheus::MetricFamily& family : registry_->registry.Collect()) {
    if (family.name != name) continue;
    for (const prometheus::ClientMetric& metric : family.metric) {
      total += metric.counter.value + metric.gauge.value + static_cast<double>(metric.histogram.sample_count);
    }
  }
  return total;
}

}  // namespace interlace
