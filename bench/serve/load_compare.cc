#include "bench/serve/load_compare.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/serve/load_compare_metrics.h"
#include "bench/serve/load_figures.h"
#include "bench/serve/load_interval.h"
#include "common/entropy.h"

namespace interlace {
namespace {

// A billionth of a second, or of a request per second: keeps the logarithm of 0 finite, and two zeros equal.
constexpr double kLeast = 1e-9;
constexpr size_t kLeastPairsForT = 3;  // the t interval of two is too wide to decide anything

using Value = std::optional<double>;

struct Pair {
  RunSample a, b;
};

RequestDraw All(const RunSample& run) {
  RequestDraw draw{std::vector<size_t>(run.requests.size()), true};
  std::iota(draw.requests.begin(), draw.requests.end(), size_t{0});
  return draw;
}

// log(B / A), or for shares B - A; empty if either has no such figure.
Value Difference(const CompareMetric& metric, const Pair& pair, const RequestDraw& a, const RequestDraw& b) {
  const Value va = metric.value(pair.a, a), vb = metric.value(pair.b, b);
  if (!va.has_value() || !vb.has_value()) return std::nullopt;
  return metric.is_share ? *vb - *va : std::log((*vb + kLeast) / (*va + kLeast));
}

// One draw for each pair. Requests of the same index are the same request where both runs have as many: then A and B
// draw alike, and what varies with the request cancels.
std::vector<std::pair<RequestDraw, RequestDraw>> DrawPairs(const std::vector<Pair>& pairs, Entropy& entropy) {
  std::vector<std::pair<RequestDraw, RequestDraw>> draws;
  for (const Pair& pair : pairs) {
    const size_t a = pair.a.requests.size(), b = pair.b.requests.size();
    RequestDraw first{a == 0 ? std::vector<size_t>{} : DrawBlocks(a, entropy)};
    RequestDraw second = a == b ? first : RequestDraw{b == 0 ? std::vector<size_t>{} : DrawBlocks(b, entropy)};
    draws.emplace_back(std::move(first), std::move(second));
  }
  return draws;
}

Change VerdictOf(const MetricChange& m, double tolerance) {
  const double none = m.is_share ? 0 : 1;
  if (m.low > none + tolerance) return m.lower_is_better ? Change::kWorse : Change::kBetter;
  if (m.high < none - tolerance) return m.lower_is_better ? Change::kBetter : Change::kWorse;
  return m.low >= none - tolerance && m.high <= none + tolerance ? Change::kNone : Change::kUndecided;
}

// Means of A and of B over the pairs that have the figure.
void PutLevels(const CompareMetric& metric, const std::vector<Pair>& pairs, MetricChange* out) {
  double a = 0, b = 0, n = 0;
  for (const Pair& pair : pairs) {
    const Value va = metric.value(pair.a, All(pair.a)), vb = metric.value(pair.b, All(pair.b));
    if (!va.has_value() || !vb.has_value()) continue;
    a += metric.is_share ? *va : std::log(*va + kLeast);
    b += metric.is_share ? *vb : std::log(*vb + kLeast);
    ++n;
  }
  out->a = metric.is_share ? a / n : std::max(0.0, std::exp(a / n) - kLeast);
  out->b = metric.is_share ? b / n : std::max(0.0, std::exp(b / n) - kLeast);
}

LoadChange CompareAt(std::string load, const std::vector<Pair>& pairs, const CompareOptions& options) {
  LoadChange out;
  out.load = std::move(load);
  out.pairs = static_cast<int>(pairs.size());
  const bool use_t = pairs.size() >= kLeastPairsForT;
  out.interval = use_t ? absl::StrCat("t over ", pairs.size(), " pairs") : "bootstrap over requests";

  std::vector<std::vector<std::pair<RequestDraw, RequestDraw>>> draws;
  if (!use_t) {
    double values = 1;  // that a resample looks at, about
    for (const Pair& pair : pairs) {
      for (const RunSample* run : {&pair.a, &pair.b}) {
        values += static_cast<double>(10 * run->requests.size() + std::min(run->gap_count, kMostGapsDrawn));
      }
    }
    const int resamples =
        std::clamp(static_cast<int>(1e8 / values), std::min(200, options.resamples), options.resamples);
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(options.seed);
    for (int i = 0; i < resamples; ++i) draws.push_back(DrawPairs(pairs, *entropy));
  }
  for (const CompareMetric& metric : CompareMetrics()) {
    std::vector<double> each;  // difference of each pair
    for (const Pair& pair : pairs) {
      if (const Value d = Difference(metric, pair, All(pair.a), All(pair.b)); d.has_value()) each.push_back(*d);
    }
    if (each.empty() || (use_t && each.size() < 2)) continue;
    Interval interval;
    if (use_t) {
      interval = TInterval(each, options.confidence);
    } else {
      double mean = 0;
      for (const double d : each) mean += d / static_cast<double>(each.size());
      std::vector<double> resampled;
      for (const auto& draw : draws) {
        double sum = 0, n = 0;
        for (size_t p = 0; p < pairs.size(); ++p) {
          const Value d = Difference(metric, pairs[p], draw[p].first, draw[p].second);
          if (!d.has_value()) continue;
          sum += *d;
          ++n;
        }
        if (n > 0) resampled.push_back(sum / n);
      }
      interval = resampled.empty() ? Interval{mean, mean, mean}
                                   : PercentileInterval(mean, std::move(resampled), options.confidence);
    }
    MetricChange m;
    m.metric = metric.name;
    m.lower_is_better = metric.lower_is_better;
    m.is_share = metric.is_share;
    m.change = metric.is_share ? interval.mean : std::exp(interval.mean);
    m.low = metric.is_share ? interval.low : std::exp(interval.low);
    m.high = metric.is_share ? interval.high : std::exp(interval.high);
    PutLevels(metric, pairs, &m);
    m.verdict = VerdictOf(m, options.tolerance);
    out.metrics.push_back(std::move(m));
  }
  return out;
}

std::string LoadName(const LoadRun& run) {
  std::vector<std::string> parts;
  if (run.offered_rate > 0) parts.push_back(absl::StrFormat("%.4g requests/s", run.offered_rate));
  if (run.concurrency > 0) parts.push_back(absl::StrCat("at most ", run.concurrency, " open"));
  if (!run.dataset.empty()) parts.push_back(run.dataset);
  if (!run.arrivals.empty()) parts.push_back(run.arrivals);
  return parts.empty() ? "all" : absl::StrJoin(parts, ", ");
}

std::string Named(const LoadRun& run) {
  return absl::StrCat(LoadName(run), ", seed ", run.seed, run.label.empty() ? "" : absl::StrCat(" (", run.label, ")"));
}

void AddDoubts(const LoadRun& run, const char* side, std::vector<std::string>* doubts) {
  const LoadFigures f = FiguresOf(run);
  if (!f.valid) doubts->push_back(absl::StrCat(side, ", seed ", run.seed, ": ", f.invalid_because));
  if (f.saturated()) {
    doubts->push_back(absl::StrCat(side, ", seed ", run.seed, ": saturated; its latencies depend on how long it ran"));
  }
}

void CompareTexts(const LoadRun& a, const LoadRun& b, LoadChange* out) {
  std::map<int64_t, const RequestRecord*> by_index;
  for (const RequestRecord& r : a.records) by_index[r.index] = &r;
  for (const RequestRecord& r : b.records) {
    const auto at = by_index.find(r.index);
    if (at == by_index.end() || r.outcome != LoadOutcome::kOk || at->second->outcome != LoadOutcome::kOk) continue;
    if (r.text.empty() && at->second->text.empty()) continue;
    ++out->texts_compared;
    if (r.text == at->second->text) ++out->texts_equal;
  }
}

// Runs of the same load and seed, each with its partner: that of the same label if there is one, else the next.
struct Paired {
  std::vector<std::pair<const LoadRun*, const LoadRun*>> pairs;
  std::vector<std::string> unpaired;
};

Paired PairRuns(const std::vector<LoadRun>& a, const std::vector<LoadRun>& b) {
  Paired out;
  std::map<std::string, std::vector<const LoadRun*>> left;  // of B
  const auto key = [](const LoadRun& run) { return absl::StrCat(LoadName(run), "|", run.seed); };
  for (const LoadRun& run : b) left[key(run)].push_back(&run);
  std::vector<const LoadRun*> waiting;  // of A, without one of the same label
  const auto take = [&](const LoadRun& run, bool same_label) {
    std::vector<const LoadRun*>& candidates = left[key(run)];
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (same_label && candidates[i]->label != run.label) continue;
      out.pairs.emplace_back(&run, candidates[i]);
      candidates.erase(candidates.begin() + static_cast<std::ptrdiff_t>(i));
      return true;
    }
    return false;
  };
  for (const LoadRun& run : a) {
    if (!take(run, true)) waiting.push_back(&run);
  }
  for (const LoadRun* run : waiting) {
    if (!take(*run, false)) out.unpaired.push_back(absl::StrCat("A: ", Named(*run)));
  }
  for (const auto& [name, runs] : left) {
    for (const LoadRun* run : runs) out.unpaired.push_back(absl::StrCat("B: ", Named(*run)));
  }
  return out;
}

}  // namespace

absl::string_view ChangeName(Change change) {
  switch (change) {
    case Change::kNone:
      return "same";
    case Change::kUndecided:
      return "undecided";
    case Change::kBetter:
      return "better";
    case Change::kWorse:
      return "worse";
  }
  return "unknown";
}

bool LoadComparison::regressed() const {
  for (const LoadChange& load : loads) {
    for (const MetricChange& metric : load.metrics) {
      if (metric.verdict == Change::kWorse) return true;
    }
  }
  return false;
}

absl::StatusOr<LoadComparison> CompareLoads(const std::vector<LoadRun>& a, const std::vector<LoadRun>& b,
                                            const CompareOptions& options) {
  Paired paired = PairRuns(a, b);
  std::vector<std::string> doubts;
  if (paired.pairs.empty() && a.size() == 1 && b.size() == 1) {
    // One run each is meant to be compared, whatever its load was.
    paired = {{{&a[0], &b[0]}}, {}};
    doubts.push_back(absl::StrCat("the loads differ: A ", Named(a[0]), "; B ", Named(b[0])));
  }
  if (paired.pairs.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no run of A has the load and seed of a run of B: ", absl::StrJoin(paired.unpaired, "; ")));
  }
  LoadComparison out;
  out.unpaired = std::move(paired.unpaired);
  // Pairs of one load, in the order of their first. A load that two labels share is two loads.
  std::vector<std::pair<std::string, std::vector<std::pair<const LoadRun*, const LoadRun*>>>> loads;
  for (const auto& pair : paired.pairs) {
    const bool alike = pair.first->label == pair.second->label && !pair.first->label.empty();
    const std::string name = absl::StrCat(LoadName(*pair.first), alike ? absl::StrCat(", ", pair.first->label) : "");
    auto at = std::find_if(loads.begin(), loads.end(), [&](const auto& load) { return load.first == name; });
    if (at == loads.end()) at = loads.insert(loads.end(), {name, {}});
    at->second.push_back(pair);
  }
  std::vector<Pair> all;
  for (const auto& [name, runs] : loads) {
    std::vector<Pair> pairs;
    for (const auto& [first, second] : runs) pairs.push_back({RunSample(*first), RunSample(*second)});
    LoadChange change = CompareAt(name, pairs, options);
    std::move(pairs.begin(), pairs.end(), std::back_inserter(all));
    change.doubts = doubts;
    for (const auto& [first, second] : runs) {
      AddDoubts(*first, "A", &change.doubts);
      AddDoubts(*second, "B", &change.doubts);
      CompareTexts(*first, *second, &change);
    }
    out.loads.push_back(std::move(change));
  }
  if (loads.size() > 1 && all.size() >= kLeastPairsForT) {
    out.loads.push_back(CompareAt(absl::StrCat("all ", loads.size(), " loads"), all, options));
  }
  return out;
}

}  // namespace interlace
