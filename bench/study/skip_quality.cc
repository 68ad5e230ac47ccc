#include "bench/study/skip_quality.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_format.h"
#include "bench/serve/load_figures.h"
#include "common/wilson.h"

namespace interlace {
namespace {

double Ratio(double a, double b) { return b > 0 ? a / b : 0; }

// Samples of one way by setting, in the order in which more and more is passed over: shares upwards; layers that run
// and leads downwards.
template <typename Sample>
std::vector<std::pair<double, std::vector<const Sample*>>> BySetting(const std::vector<Sample>& samples,
                                                                     const std::string& method) {
  std::map<double, std::vector<const Sample*>> settings;
  const bool downwards = method == "truncation" || method == "confidence";
  for (const Sample& sample : samples) {
    if (sample.method == method) settings[downwards ? -sample.setting : sample.setting].push_back(&sample);
  }
  std::vector<std::pair<double, std::vector<const Sample*>>> out;
  for (auto& [key, list] : settings) out.emplace_back(downwards ? -key : key, std::move(list));
  return out;
}

void AddTexts(const std::vector<const QualitySample*>& samples, QualityRow* row) {
  TokenCost cost, whole;
  double nll = 0;
  int64_t agreed = 0;
  std::vector<double> kl, same;
  for (const QualitySample* sample : samples) {
    row->positions += sample->positions;
    row->passed += sample->passed;
    cost += sample->cost;
    whole += sample->whole_cost;
    nll += sample->nll;
    agreed += sample->agreed;
    kl.insert(kl.end(), sample->kl.begin(), sample->kl.end());
    same.push_back(sample->same);
    row->decoded = std::max(row->decoded, sample->decoded);
  }
  const auto positions = static_cast<double>(row->positions);
  row->texts = static_cast<int64_t>(samples.size());
  row->passed = Ratio(row->passed, positions);
  row->flops = Ratio(cost.flops, whole.flops);
  row->bytes = Ratio(cost.bytes, whole.bytes);
  row->perplexity = std::exp(Ratio(nll, positions));
  row->agreement = WilsonInterval(agreed, row->positions);
  std::sort(kl.begin(), kl.end());
  std::sort(same.begin(), same.end());
  for (const double value : kl) row->kl += value / static_cast<double>(kl.size());
  if (!kl.empty()) row->kl_p99 = SortedQuantile(kl, 0.99);
  if (!same.empty()) row->same = SortedQuantile(same, 0.5);
}

TestRow RowOf(const TestSample& sample, const TestSample* whole) {
  TestRow row{.test = sample.test, .items = static_cast<int64_t>(sample.right.size())};
  for (size_t i = 0; i < sample.right.size(); ++i) {
    row.right += sample.right[i] ? 1 : 0;
    if (whole == nullptr || i >= whole->right.size()) continue;
    row.gained += sample.right[i] && !whole->right[i] ? 1 : 0;
    row.lost += !sample.right[i] && whole->right[i] ? 1 : 0;
  }
  row.share = WilsonInterval(row.right, row.items);
  row.chance = PairedChance(row.gained, row.lost);
  row.flops = Ratio(sample.cost.flops, sample.whole_cost.flops);
  row.bytes = Ratio(sample.cost.bytes, sample.whole_cost.bytes);
  return row;
}

const TestSample* FindWhole(const SkipQuality& quality, const std::string& test) {
  for (const TestSample& sample : quality.test_samples) {
    if (sample.method == "whole" && sample.test == test) return &sample;
  }
  return nullptr;
}

}  // namespace

Interval WilsonInterval(int64_t right, int64_t tried) {
  constexpr double kDeviations = 1.959964;
  const auto r = static_cast<double>(right), n = static_cast<double>(tried);
  return {Ratio(r, n), WilsonBound(r, n, -kDeviations), WilsonBound(r, n, kDeviations)};
}

double PairedChance(int64_t gained, int64_t lost) {
  const int64_t n = gained + lost;
  double tail = 0;
  for (int64_t k = 0; k <= std::min(gained, lost); ++k) {
    const auto all = static_cast<double>(n), some = static_cast<double>(k);
    tail += std::exp(std::lgamma(all + 1) - std::lgamma(some + 1) - std::lgamma(all - some + 1) - all * std::log(2));
  }
  return std::min(1.0, 2 * tail);
}

std::vector<bool> ParetoFront(absl::Span<const std::pair<double, double>> points) {
  std::vector<bool> front;
  for (const auto& [cost, loss] : points) {
    front.push_back(std::none_of(points.begin(), points.end(), [cost = cost, loss = loss](const auto& other) {
      return other.first <= cost && other.second <= loss && (other.first < cost || other.second < loss);
    }));
  }
  return front;
}

std::vector<QualityRow> QualityRows(const SkipQuality& quality) {
  std::vector<QualityRow> rows;
  for (const char* method : kSkipWays) {
    std::map<double, size_t> at;  // by setting
    const auto row_of = [&](double setting) -> QualityRow& {
      const auto [found, is_new] = at.emplace(setting, rows.size());
      if (is_new) rows.push_back({.method = method, .setting = setting});
      return rows[found->second];
    };
    for (const auto& [setting, samples] : BySetting(quality.samples, method)) AddTexts(samples, &row_of(setting));
    for (const auto& [setting, samples] : BySetting(quality.test_samples, method)) {
      for (const SkipTest& test : quality.tests) {
        for (const TestSample* sample : samples) {
          if (sample->test == test.name) row_of(setting).tests.push_back(RowOf(*sample, FindWhole(quality, test.name)));
        }
      }
    }
  }
  return rows;
}

double WholePerplexity(const SkipQuality& quality) {
  // Every way computes the same positions, so the first one's samples are all texts.
  double nll = 0;
  int64_t positions = 0;
  for (const QualitySample& sample : quality.samples) {
    if (sample.method != quality.samples.front().method || sample.setting != quality.samples.front().setting) continue;
    nll += sample.whole_nll;
    positions += sample.positions;
  }
  return positions > 0 ? std::exp(nll / static_cast<double>(positions)) : 0;
}

std::optional<TestRow> WholeTest(const SkipQuality& quality, const std::string& test) {
  const TestSample* const whole = FindWhole(quality, test);
  if (whole == nullptr) return std::nullopt;
  return RowOf(*whole, whole);
}

}  // namespace interlace
