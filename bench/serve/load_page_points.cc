#include "bench/serve/load_page_points.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/check.h"

namespace interlace {
namespace {

constexpr double kCarried = 0.9;  // share of requests that meet their targets

std::vector<double> ValuesOf(const LoadPoint& point, const FigureOf& figure) {
  std::vector<double> values;
  for (const LoadFigures& f : point.figures) values.push_back(figure(f));
  std::sort(values.begin(), values.end());
  return values;
}

// Keeps a target while all requests that have one agree on it.
class Agreed {
 public:
  void See(const std::optional<absl::Duration>& target) {
    if (!target.has_value()) return;
    if (value_.has_value() && *value_ != *target) differ_ = true;
    value_ = target;
  }
  std::optional<absl::Duration> value() const { return differ_ ? std::nullopt : value_; }

 private:
  std::optional<absl::Duration> value_;
  bool differ_ = false;
};

LoadTargets AgreedTargets(const std::vector<LoadRun>& runs) {
  Agreed ttft, tpot, gap, e2el;
  for (const LoadRun& run : runs) {
    for (const RequestRecord& r : run.records) {
      ttft.See(r.targets.ttft);
      tpot.See(r.targets.tpot);
      gap.See(r.targets.largest_gap);
      e2el.See(r.targets.e2el);
    }
  }
  return {ttft.value(), tpot.value(), gap.value(), e2el.value()};
}

double ShownAt(const LoadPoints& points) {
  const auto highest = [&](const std::function<bool(const LoadPoint&)>& carried) -> std::optional<double> {
    std::optional<double> at;
    for (const LoadPoint& point : points.points) {
      if (carried(point) && (!at.has_value() || point.at > *at)) at = point.at;
    }
    return at;
  };
  if (points.has_targets) {
    const auto at = highest([](const LoadPoint& p) {
      return !p.saturated() && MedianOf(p, [](const LoadFigures& f) { return f.good_share; }) >= kCarried;
    });
    if (at.has_value()) return *at;
  }
  return highest([](const LoadPoint& p) { return !p.saturated(); }).value_or(points.places.front());
}

}  // namespace

bool LoadPoint::saturated() const {
  const auto count = std::count_if(figures.begin(), figures.end(), [](const LoadFigures& f) { return f.saturated(); });
  return 2 * static_cast<size_t>(count) > figures.size();
}

double MedianOf(const LoadPoint& point, const FigureOf& figure) { return SortedQuantile(ValuesOf(point, figure), 0.5); }
double LeastOf(const LoadPoint& point, const FigureOf& figure) { return ValuesOf(point, figure).front(); }
double MostOf(const LoadPoint& point, const FigureOf& figure) { return ValuesOf(point, figure).back(); }

std::string LoadPoints::AtText(double at) const {
  return closed_loop ? absl::StrFormat("%.0f open", at) : absl::StrFormat("%.4g requests/s", at);
}

const LoadPoint* LoadPoints::Find(size_t line, double at) const {
  for (const LoadPoint& point : points) {
    if (point.line == line && point.at == at) return &point;
  }
  return nullptr;
}

const LoadPoint& LoadPoints::Shown(size_t line) const {
  const LoadPoint* nearest = nullptr;
  for (const LoadPoint& point : points) {
    if (point.line != line) continue;
    if (nearest == nullptr || std::abs(point.at - shown_at) < std::abs(nearest->at - shown_at)) nearest = &point;
  }
  CHECK(nearest != nullptr);
  return *nearest;
}

LoadPoints PointsOf(const std::vector<LoadRun>& runs) {
  CHECK(!runs.empty());
  LoadPoints out;
  out.closed_loop = std::all_of(runs.begin(), runs.end(), [](const LoadRun& run) { return run.offered_rate <= 0; });
  for (const LoadRun& run : runs) {
    const auto label = std::find(out.labels.begin(), out.labels.end(), run.label);
    const auto line = static_cast<size_t>(label - out.labels.begin());
    if (label == out.labels.end()) out.labels.push_back(run.label);
    const double at = out.closed_loop ? run.concurrency : run.offered_rate;
    auto point = std::find_if(out.points.begin(), out.points.end(),
                              [&](const LoadPoint& p) { return p.line == line && p.at == at; });
    if (point == out.points.end()) {
      out.points.push_back({.line = line, .at = at});
      point = out.points.end() - 1;
    }
    point->runs.push_back(&run);
    point->figures.push_back(FiguresOf(run));
    out.has_targets = out.has_targets || point->figures.back().has_targets;
    if (std::find(out.places.begin(), out.places.end(), at) == out.places.end()) out.places.push_back(at);
  }
  std::sort(out.places.begin(), out.places.end());
  std::stable_sort(out.points.begin(), out.points.end(), [](const LoadPoint& a, const LoadPoint& b) {
    return std::pair(a.line, a.at) < std::pair(b.line, b.at);
  });
  for (size_t i = 0; i < out.labels.size(); ++i) {
    if (out.labels[i].empty()) out.labels[i] = out.labels.size() == 1 ? runs[0].model : absl::StrCat("run ", i + 1);
  }
  out.targets = AgreedTargets(runs);
  out.shown_at = ShownAt(out);
  return out;
}

}  // namespace interlace
