#include "bench/serve/load_compare_metrics.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

using Value = std::optional<double>;

double QuantileOf(std::vector<double>* values, double q) {
  const double at = q * static_cast<double>(values->size() - 1);
  const auto low = static_cast<std::ptrdiff_t>(at);
  std::nth_element(values->begin(), values->begin() + low, values->end());
  const double below = (*values)[static_cast<size_t>(low)];
  if (static_cast<size_t>(low) + 1 >= values->size()) return below;
  const double above = *std::min_element(values->begin() + low + 1, values->end());
  return below + (at - static_cast<double>(low)) * (above - below);
}

struct Stat {
  const char* name;
  double q;  // below 0: the mean
};
constexpr Stat kMean = {"mean", -1}, kP50 = {"p50", 0.5}, kP99 = {"p99", 0.99};

Value StatOf(std::vector<double> values, const Stat& stat) {
  if (values.empty()) return std::nullopt;
  if (stat.q >= 0) return QuantileOf(&values, stat.q);
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

CompareMetric PerRequest(const std::string& name, Stat stat, std::optional<double> RequestFigures::*field) {
  return {absl::StrCat(name, " ", stat.name), true, false, [=](const RunSample& run, const RequestDraw& draw) {
            std::vector<double> values;
            for (const size_t i : draw.requests) {
              if (const auto& v = run.requests[i].figures.*field; v.has_value()) values.push_back(*v);
            }
            return StatOf(std::move(values), stat);
          }};
}

CompareMetric Pooled(Stat stat) {
  return {absl::StrCat("ITL ", stat.name), true, false, [=](const RunSample& run, const RequestDraw& draw) {
            std::vector<double> values;
            for (const size_t i : draw.requests) {
              const std::vector<double>& gaps = draw.whole ? run.requests[i].gaps : run.requests[i].thinned;
              values.insert(values.end(), gaps.begin(), gaps.end());
            }
            return StatOf(std::move(values), stat);
          }};
}

// A sum over requests divided by the run's seconds, or for shares by another sum.
using Weight = std::function<double(const RequestSample&)>;
double Sum(const RunSample& run, const RequestDraw& draw, const Weight& weight) {
  double sum = 0;
  for (const size_t i : draw.requests) sum += weight(run.requests[i]);
  return sum;
}

CompareMetric Rate(const std::string& name, Weight weight, bool needs_targets = false) {
  return {name, false, false, [=](const RunSample& run, const RequestDraw& draw) -> Value {
            if (run.seconds <= 0 || (needs_targets && !run.has_targets)) return std::nullopt;
            return Sum(run, draw, weight) / run.seconds;
          }};
}

CompareMetric Share(const std::string& name, bool lower_is_better, Weight part, Weight whole,
                    bool needs_targets = false) {
  return {name, lower_is_better, true, [=](const RunSample& run, const RequestDraw& draw) -> Value {
            if (needs_targets && !run.has_targets) return std::nullopt;
            const double all = Sum(run, draw, whole);
            if (all <= 0) return std::nullopt;
            return Sum(run, draw, part) / all;
          }};
}

}  // namespace

RunSample::RunSample(const LoadRun& from) : run(&from) {
  const LoadFigures whole = FiguresOf(from);
  seconds = whole.seconds;
  has_targets = whole.has_targets;
  for (const RequestRecord& record : from.records) {
    RequestSample r;
    r.figures = FiguresOfRequest(record);
    r.completed = record.outcome == LoadOutcome::kOk;
    r.shed = record.outcome == LoadOutcome::kShed;
    const bool cancelled = record.outcome == LoadOutcome::kCancelled;
    r.error = !r.completed && !r.shed && !cancelled;
    if (r.completed || cancelled) {
      r.gaps = GapsOf(record);
      r.input_tokens = record.prompt_tokens;
      r.cached_tokens = record.cached_tokens;
    }
    gap_count += r.gaps.size();
    requests.push_back(std::move(r));
  }
  const size_t stride = gap_count / kMostGapsDrawn + 1;
  size_t at = 0;
  for (RequestSample& r : requests) {
    for (const double gap : r.gaps) {
      if (at++ % stride == 0) r.thinned.push_back(gap);
    }
  }
}

std::vector<CompareMetric> CompareMetrics() {
  const Weight one = [](const RequestSample&) { return 1.0; };
  return {PerRequest("TTFT", kMean, &RequestFigures::ttft),
          PerRequest("TTFT", kP50, &RequestFigures::ttft),
          PerRequest("TTFT", kP99, &RequestFigures::ttft),
          PerRequest("second token", kP50, &RequestFigures::second_token),
          PerRequest("second token", kP99, &RequestFigures::second_token),
          PerRequest("TPOT", kMean, &RequestFigures::tpot),
          PerRequest("TPOT", kP99, &RequestFigures::tpot),
          Pooled(kP50),
          Pooled(kP99),
          PerRequest("largest gap", kP50, &RequestFigures::largest_gap),
          PerRequest("largest gap", kP99, &RequestFigures::largest_gap),
          PerRequest("E2EL", kMean, &RequestFigures::e2el),
          PerRequest("E2EL", kP99, &RequestFigures::e2el),
          Rate("requests/s", [](const RequestSample& r) { return r.completed ? 1.0 : 0.0; }),
          Rate("output tokens/s", [](const RequestSample& r) { return static_cast<double>(r.figures.output_tokens); }),
          Rate(
              "goodput", [](const RequestSample& r) { return r.figures.good ? 1.0 : 0.0; }, true),
          Share(
              "good share", false, [](const RequestSample& r) { return r.figures.good ? 1.0 : 0.0; },
              [](const RequestSample& r) { return r.figures.judged ? 1.0 : 0.0; }, true),
          Share(
              "shed", true, [](const RequestSample& r) { return r.shed ? 1.0 : 0.0; }, one),
          Share(
              "errors", true, [](const RequestSample& r) { return r.error ? 1.0 : 0.0; }, one),
          Share(
              "hit rate", false, [](const RequestSample& r) { return r.cached_tokens; },
              [](const RequestSample& r) { return r.input_tokens; })};
}

}  // namespace interlace
