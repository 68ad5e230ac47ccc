#include "bench/study/skip_study.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_format.h"

namespace interlace {
namespace {

using nlohmann::ordered_json;

constexpr double kLeastKl = 1e-9;  // below it a logarithm says nothing

std::vector<int32_t> InnerSublayers(int32_t layers) {
  std::vector<int32_t> inner;
  for (int32_t s = 2; s < 2 * (layers - 1); ++s) inner.push_back(s);
  return inner;
}

std::vector<double> LogKl(const SkipPrompt& prompt, absl::Span<const int32_t> sublayers) {
  std::vector<double> values;
  for (const int32_t s : sublayers) values.push_back(std::log10(std::max(kLeastKl, prompt.kl[s])));
  return values;
}

std::vector<double> Ranks(absl::Span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = static_cast<double>(begin + end - 1) / 2;
    begin = end;
  }
  return ranks;
}

double Ratio(double a, double b) { return b > 0 ? a / b : 0; }

// Expected tokens a second at each depth, over plain decoding: a step of depth k takes k passes and what k + 1 rows
// take, between a plain step and the step that was measured.
void FindBestDepth(const SkipDrafts& sum, int32_t depth, SkipGain* gain) {
  const double plain = Ratio(sum.plain_seconds, static_cast<double>(sum.tokens));
  const double pass = Ratio(sum.draft_seconds, static_cast<double>(sum.steps * depth));
  const double verify = Ratio(sum.verify_seconds, static_cast<double>(sum.steps));
  double tokens = 1, chance = 1;
  for (int32_t k = 1; k <= depth; ++k) {
    chance *= gain->by_depth[k - 1];
    tokens += chance;
    const double step = k * pass + plain + (verify - plain) * k / depth;
    const double speed = Ratio(tokens * plain, step);
    if (speed <= gain->best_speed) continue;
    gain->best_speed = speed;
    gain->best_depth = k;
  }
}

}  // namespace

std::vector<int32_t> RankSublayers(absl::Span<const SkipPrompt* const> prompts, int32_t layers) {
  std::vector<int32_t> ranked = InnerSublayers(layers);
  std::vector<double> cost(2 * static_cast<size_t>(layers));
  for (const SkipPrompt* prompt : prompts) {
    for (const int32_t s : ranked) cost[s] += prompt->kl[s];
  }
  std::stable_sort(ranked.begin(), ranked.end(), [&](int32_t a, int32_t b) { return cost[a] < cost[b]; });
  return ranked;
}

SkipPlan PlanOf(absl::Span<const int32_t> ranked, int32_t count) {
  SkipPlan plan;
  for (const int32_t s : ranked.first(std::min<size_t>(ranked.size(), static_cast<size_t>(count)))) {
    (s % 2 == 0 ? plan.attention : plan.feed_forward).Add(LayerId{s / 2});
  }
  return plan;
}

double RankCorrelation(absl::Span<const double> a, absl::Span<const double> b) {
  const std::vector<double> x = Ranks(a), y = Ranks(b);
  const double mean = (static_cast<double>(x.size()) - 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

SkipVariation VariationOf(const SkipResult& result) {
  SkipVariation variation;
  const std::vector<int32_t> inner = InnerSublayers(result.layers);
  std::map<std::string, std::vector<std::vector<double>>> tasks;
  for (const SkipPrompt& prompt : result.prompts) tasks[prompt.task].push_back(LogKl(prompt, inner));
  if (inner.empty() || tasks.empty()) return variation;
  for (size_t s = 0; s < inner.size(); ++s) {
    double within = 0, all = 0;
    int64_t count = 0;
    std::vector<double> means;
    for (const auto& [task, prompts] : tasks) {
      double mean = 0;
      for (const auto& prompt : prompts) mean += prompt[s] / static_cast<double>(prompts.size());
      for (const auto& prompt : prompts) within += (prompt[s] - mean) * (prompt[s] - mean);
      count += static_cast<int64_t>(prompts.size());
      means.push_back(mean);
      all += mean / static_cast<double>(tasks.size());
    }
    double between = 0;
    for (const double mean : means) between += (mean - all) * (mean - all);
    // Unbiased, where there is more than one of them.
    variation.within += Ratio(within, static_cast<double>(count) - static_cast<double>(tasks.size()));
    variation.between += Ratio(between, static_cast<double>(means.size()) - 1);
  }
  variation.within /= static_cast<double>(inner.size());
  variation.between /= static_cast<double>(inner.size());
  double same = 0, other = 0;
  int64_t same_pairs = 0, other_pairs = 0;
  for (size_t i = 0; i < result.prompts.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const SkipPrompt &a = result.prompts[i], &b = result.prompts[j];
      const double correlation = RankCorrelation(LogKl(a, inner), LogKl(b, inner));
      (a.task == b.task ? same : other) += correlation;
      ++(a.task == b.task ? same_pairs : other_pairs);
    }
  }
  variation.same_task = Ratio(same, static_cast<double>(same_pairs));
  variation.other_task = Ratio(other, static_cast<double>(other_pairs));
  return variation;
}

std::vector<SkipGain> GainsOf(const SkipResult& result) {
  std::vector<SkipGain> gains;
  for (const char* method : kSkipMethods) {
    std::map<int32_t, SkipDrafts> by_passed;
    for (const SkipDrafts& drafts : result.drafts) {
      if (drafts.method != method) continue;
      SkipDrafts& sum = by_passed[drafts.passed];
      sum.tried.resize(result.depth);
      sum.right.resize(result.depth);
      for (int32_t d = 0; d < result.depth; ++d) {
        sum.tried[d] += drafts.tried[d];
        sum.right[d] += drafts.right[d];
      }
      sum.tokens += drafts.tokens;
      sum.steps += drafts.steps;
      sum.wrong += drafts.wrong;
      sum.draft_seconds += drafts.draft_seconds;
      sum.verify_seconds += drafts.verify_seconds;
      sum.plain_seconds += drafts.plain_seconds;
    }
    for (const auto& [passed, sum] : by_passed) {
      SkipGain& gain = gains.emplace_back();
      gain.method = method;
      gain.passed = passed;
      gain.wrong = sum.wrong;
      for (int32_t d = 0; d < result.depth; ++d) {
        gain.by_depth.push_back(Ratio(static_cast<double>(sum.right[d]), static_cast<double>(sum.tried[d])));
      }
      gain.acceptance = gain.by_depth.empty() ? 0 : gain.by_depth[0];
      gain.tokens_per_step = Ratio(static_cast<double>(sum.tokens), static_cast<double>(sum.steps));
      gain.speed = Ratio(sum.plain_seconds, sum.draft_seconds + sum.verify_seconds);
      FindBestDepth(sum, result.depth, &gain);
    }
  }
  return gains;
}

std::vector<std::vector<std::string>> SkipTable(const SkipResult& result) {
  std::vector<std::vector<std::string>> rows = {{"sublayers chosen", "passed over", "first guess right",
                                                 "tokens a step", "tokens/s over plain", "best depth",
                                                 "expected there"}};
  for (const SkipGain& gain : GainsOf(result)) {
    rows.push_back({gain.method, absl::StrFormat("%d of %d", gain.passed, 2 * result.layers),
                    absl::StrFormat("%.1f %%", 100 * gain.acceptance), absl::StrFormat("%.2f", gain.tokens_per_step),
                    absl::StrFormat("%.2fx", gain.speed), absl::StrFormat("%d", gain.best_depth),
                    absl::StrFormat("%.2fx", gain.best_speed)});
  }
  return rows;
}

std::string SkipJson(const SkipResult& result, const std::string& command) {
  const SkipVariation variation = VariationOf(result);
  ordered_json json = {{"command", command},
                       {"layers", result.layers},
                       {"depth", result.depth},
                       {"variation",
                        {{"within_tasks", variation.within},
                         {"between_tasks", variation.between},
                         {"rank_correlation_same_task", variation.same_task},
                         {"rank_correlation_other_task", variation.other_task}}}};
  for (const SkipPrompt& prompt : result.prompts) {
    json["prompts"].push_back({{"task", prompt.task},
                               {"tokens", prompt.tokens},
                               {"influence", prompt.influence},
                               {"kl", prompt.kl},
                               {"agreement", prompt.agreement}});
  }
  for (const SkipGain& gain : GainsOf(result)) {
    json["drafts"].push_back({{"method", gain.method},
                              {"passed", gain.passed},
                              {"acceptance_by_depth", gain.by_depth},
                              {"tokens_per_step", gain.tokens_per_step},
                              {"speed_over_plain", gain.speed},
                              {"best_depth", gain.best_depth},
                              {"best_speed_expected", gain.best_speed},
                              {"wrong_tokens", gain.wrong}});
  }
  const SkipQuality& quality = result.quality;
  if (!quality.samples.empty() || !quality.tests.empty()) {
    json["quality"] = QualityJson(quality);
  }
  return json.dump(1) + "\n";
}

}  // namespace interlace
