#include "common/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "common/check.h"

namespace interlace {
namespace {

prometheus::MetricType TypeOf(MetricKind kind) {
  switch (kind) {
    case MetricKind::kCounter:
      return prometheus::MetricType::Counter;
    case MetricKind::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricKind::kHistogram:
      break;
  }
  return prometheus::MetricType::Histogram;
}

struct BucketRow {
  absl::string_view name;
  const MetricBuckets& bounds;
};
// Histograms with bounds of their own.
constexpr BucketRow kBuckets[] = {
    {"vllm:time_to_first_token_seconds", kFirstTokenBuckets},
    {"vllm:inter_token_latency_seconds", kTokenGapBuckets},
    {"vllm:request_time_per_output_token_seconds", kTokenGapBuckets},
    {"vllm:e2e_request_latency_seconds", kRequestBuckets},
    {"vllm:request_queue_time_seconds", kRequestBuckets},
    {"vllm:request_prefill_time_seconds", kRequestBuckets},
    {"vllm:request_decode_time_seconds", kRequestBuckets},
    {"vllm:request_inference_time_seconds", kRequestBuckets},
    {"vllm:request_prompt_tokens", kTokenBuckets},
    {"vllm:request_generation_tokens", kTokenBuckets},
    {"vllm:request_max_num_generation_tokens", kTokenBuckets},
    {"vllm:request_params_max_tokens", kTokenBuckets},
    {"vllm:request_params_n", kTokenBuckets},
    {"vllm:request_prefill_kv_computed_tokens", kTokenBuckets},
    {"vllm:iteration_tokens_total", kTokenBuckets},
};

const MetricBuckets& BucketsOf(absl::string_view name) {
  for (const BucketRow& row : kBuckets) {
    if (row.name == name) return row.bounds;
  }
  return absl::EndsWith(name, "_ratio") ? kRatioBuckets : kMetricBuckets;
}

}  // namespace

Metrics::Metrics(std::string model_name) : model_name_(std::move(model_name)) {
  for (const MetricRow& row : kMetrics) families_.emplace_back(row);
  for (const MetricRow& row : kMetrics) {
    if (row.labels.empty()) Find(row.name, row.kind, {}).asked_for = false;  // it shows from the start
  }
}

Metrics::Metrics(Metrics& all, std::string label, std::string value)
    : all_(&all), view_(std::move(label), std::move(value)) {}

Metrics::~Metrics() = default;

Metrics::Series& Metrics::Find(absl::string_view name, MetricKind kind, MetricLabels labels) {
  Metrics& all = all_ == nullptr ? *this : *all_;
  absl::MutexLock lock(&all.mutex_);
  return all.FindIn(name, kind, labels, all_ == nullptr ? nullptr : &view_);
}

Metrics::Series& Metrics::FindIn(absl::string_view name, MetricKind kind, MetricLabels labels, const ViewLabel* view) {
  auto family = std::find_if(families_.begin(), families_.end(),
                             [&](const Family& candidate) { return candidate.row.name == name; });
  CHECK_MSG(family != families_.end(), std::string(name).c_str());
  CHECK_MSG(family->row.kind == kind, std::string(name).c_str());
  const std::vector<absl::string_view> known = absl::StrSplit(family->row.labels, ',', absl::SkipEmpty());
  LabelValues values;
  for (const auto& [key, value] : labels) {
    CHECK_MSG(std::find(known.begin(), known.end(), key) != known.end(), std::string(name).c_str());
    values.emplace(key, value);
  }
  CHECK_MSG(values.size() == known.size(), std::string(name).c_str());
  if (view != nullptr) values.insert(*view);
  family->viewed |= view != nullptr;
  Series& series = family->series[std::move(values)];
  series.asked_for = true;
  if (kind == MetricKind::kHistogram && series.buckets == nullptr) {
    series.buckets.reset(new Buckets{BucketsOf(name)});
  }
  return series;
}

Metrics::Counter Metrics::counter(absl::string_view name, MetricLabels labels) {
  return Counter(&Find(name, MetricKind::kCounter, labels).value);
}
Metrics::Gauge Metrics::gauge(absl::string_view name, MetricLabels labels) {
  return Gauge(&Find(name, MetricKind::kGauge, labels).value);
}
Metrics::Histogram Metrics::histogram(absl::string_view name, MetricLabels labels) {
  return Histogram(Find(name, MetricKind::kHistogram, labels).buckets.get());
}

void Metrics::SetOnly(absl::string_view name, double value, MetricLabels labels) {
  CHECK_MSG(all_ == nullptr, "a view knows nothing of the series of others");
  absl::MutexLock lock(&mutex_);
  for (Family& family : families_) {
    if (family.row.name == name) family.series.clear();
  }
  FindIn(name, MetricKind::kGauge, labels, nullptr).value.store(value, std::memory_order_relaxed);
}

std::string Metrics::Text() const {
  if (all_ != nullptr) return all_->Text();
  std::vector<prometheus::MetricFamily> page;
  absl::MutexLock lock(&mutex_);
  for (const Family& family : families_) {
    prometheus::MetricFamily& out = page.emplace_back();
    out.name = std::string(family.row.name);
    out.help = std::string(family.row.meaning);
    out.type = TypeOf(family.row.kind);
    for (const auto& [labels, series] : family.series) {
      if (family.viewed && !series.asked_for) continue;
      prometheus::ClientMetric& metric = out.metric.emplace_back();
      metric.label.push_back({"model_name", model_name_});
      for (const auto& [key, value] : labels) metric.label.push_back({key, value});
      metric.counter.value = metric.gauge.value = series.value.load(std::memory_order_relaxed);
      if (series.buckets == nullptr) continue;
      prometheus::ClientMetric::Histogram& histogram = metric.histogram;
      for (size_t b = 0; b < series.buckets->counts.size(); ++b) {
        histogram.sample_count += series.buckets->counts[b].load(std::memory_order_relaxed);
        const MetricBuckets& bounds = series.buckets->bounds;
        histogram.bucket.push_back(
            {histogram.sample_count, b < bounds.size() ? bounds[b] : std::numeric_limits<double>::infinity()});
      }
      histogram.sample_sum = series.buckets->sum.load(std::memory_order_relaxed);
    }
  }
  return prometheus::TextSerializer().Serialize(page);
}

double Metrics::Total(absl::string_view name) const {
  return all_ == nullptr ? TotalOf(name, nullptr) : all_->TotalOf(name, &view_);
}

double Metrics::TotalOf(absl::string_view name, const ViewLabel* view) const {
  double total = 0;
  absl::MutexLock lock(&mutex_);
  for (const Family& family : families_) {
    if (family.row.name != name) continue;
    for (const auto& [labels, series] : family.series) {
      const auto own = view == nullptr ? labels.end() : labels.find(view->first);
      if (view != nullptr && (own == labels.end() || own->second != view->second)) continue;
      total += series.value.load(std::memory_order_relaxed);
      if (series.buckets == nullptr) continue;
      for (const auto& count : series.buckets->counts)
        total += static_cast<double>(count.load(std::memory_order_relaxed));
    }
  }
  return total;
}

}  // namespace interlace
