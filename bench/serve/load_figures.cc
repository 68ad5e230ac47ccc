#include "bench/serve/load_figures.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace interlace {
namespace {

constexpr double kMostLagShare = 0.05;  // of the median TTFT, for the p99 of the send lag

double Seconds(absl::Duration d) { return absl::ToDoubleSeconds(d); }

bool DeliveredAsPlanned(const RequestRecord& record) {
  return record.outcome == LoadOutcome::kOk || record.outcome == LoadOutcome::kCancelled;
}

// The server's count where there is one; else what the deliveries carried.
int64_t OutputTokens(const RequestRecord& record) {
  if (record.completion_tokens > 0) return record.completion_tokens;
  return std::accumulate(record.chunk_tokens.begin(), record.chunk_tokens.end(), int64_t{0});
}

bool HasTargets(const LoadTargets& t) { return t.ttft || t.tpot || t.largest_gap || t.e2el; }

std::optional<double> SecondToken(const RequestRecord& record) {
  int64_t tokens = 0;
  for (size_t i = 0; i < record.chunks.size(); ++i) {
    tokens += i < record.chunk_tokens.size() ? record.chunk_tokens[i] : 1;
    if (tokens >= 2) return Seconds(record.chunks[i] - record.sent);
  }
  return std::nullopt;
}

void Judge(const RequestRecord& record, RequestFigures* figures) {
  figures->judged = record.outcome != LoadOutcome::kCancelled;
  if (!figures->judged) return;
  const bool ok = record.outcome == LoadOutcome::kOk;
  figures->good = ok;
  // `value`: of an answer that ended well; empty: there is nothing to judge, which is in favour of the answer.
  const auto judge = [&](const std::optional<absl::Duration>& target, const std::optional<double>& value,
                         std::optional<bool>* met) {
    if (!target.has_value() || (ok && !value.has_value())) return;
    *met = ok && *value <= Seconds(*target);
    figures->good = figures->good && **met;
  };
  // An answer without text has kept its TTFT if it ended in time.
  judge(record.targets.ttft, figures->ttft.has_value() ? figures->ttft : figures->e2el, &figures->met_ttft);
  judge(record.targets.tpot, figures->tpot, &figures->met_tpot);
  judge(record.targets.largest_gap, figures->largest_gap, &figures->met_largest_gap);
  judge(record.targets.e2el, figures->e2el, &figures->met_e2el);
}

void Count(const std::optional<bool>& met, Attainment* attainment) {
  if (!met.has_value()) return;
  ++attainment->asked;
  if (*met) ++attainment->met;
}

// How many requests stood open, as steps over time.
class OpenRequests {
 public:
  explicit OpenRequests(const LoadRun& run) {
    std::map<double, int64_t> changes;
    for (const RequestRecord& record : run.records) {
      if (record.ended <= record.sent) continue;
      ++changes[Seconds(record.sent)];
      --changes[Seconds(record.ended)];
    }
    int64_t open = 0;
    for (const auto& [time, change] : changes) steps_.emplace_back(time, open += change);
  }
  int64_t Peak() const {
    int64_t peak = 0;
    for (const auto& [time, open] : steps_) peak = std::max(peak, open);
    return peak;
  }
  // Mean over [from, to). Requires: from < to.
  double Mean(double from, double to) const {
    double area = 0;
    for (size_t i = 0; i < steps_.size(); ++i) {
      const double begin = std::max(from, steps_[i].first);
      const double end = i + 1 < steps_.size() ? std::min(to, steps_[i + 1].first) : to;
      if (end > begin) area += static_cast<double>(steps_[i].second) * (end - begin);
    }
    return area / (to - from);
  }

 private:
  std::vector<std::pair<double, int64_t>> steps_;  // time, open from then on
};

// How long an answer took before a queue could build up: median E2EL of the first tenth. Infinite: none ended well.
double EarlyE2el(const LoadRun& run) {
  std::vector<double> values;
  for (size_t i = 0; i < run.records.size() / 10 + 1 && i < run.records.size(); ++i) {
    if (const std::optional<double> e2el = FiguresOfRequest(run.records[i]).e2el) values.push_back(*e2el);
  }
  return values.empty() ? std::numeric_limits<double>::infinity() : DistributionOf(std::move(values)).p50;
}

// A queue that is fed faster than it is served grows linearly: its mean over the last quarter of sending is then 7/3 of
// that over the second quarter; 3/2 tells it from a steady one. The difference must also be more than chance makes of
// counts like these, and sending longer than a few answers take: until then the count grows at any load.
bool QueueGrows(const LoadRun& run, const OpenRequests& open) {
  const double end = Seconds(run.duration);
  if (run.offered_rate <= 0 || run.records.size() < 20 || end < 4 * EarlyE2el(run)) return false;
  const double early = open.Mean(end / 4, end / 2), late = open.Mean(end * 3 / 4, end);
  return late > 1.5 * early && late - early > 3 * std::sqrt(late + early);
}

double PeakTokensPerSecond(const LoadRun& run) {
  std::map<int64_t, double> buckets;
  for (const RequestRecord& record : run.records) {
    for (size_t i = 0; i < record.chunks.size(); ++i) {
      buckets[absl::ToInt64Seconds(record.chunks[i])] += i < record.chunk_tokens.size() ? record.chunk_tokens[i] : 1;
    }
  }
  double peak = 0;
  for (const auto& [second, tokens] : buckets) peak = std::max(peak, tokens);
  return peak;
}

void SayWhetherValid(LoadFigures* f) {
  if (f->ttft.count == 0) {
    f->invalid_because = "no request had a first token";
  } else if (f->send_lag.p99 > kMostLagShare * f->ttft.p50) {
    f->invalid_because = absl::StrFormat(
        "the client sent late: lag p99 %.3g ms is %.3g %% of the median TTFT %.3g ms, at most %.0f %%",
        f->send_lag.p99 * 1e3, 100 * f->send_lag.p99 / f->ttft.p50, f->ttft.p50 * 1e3, 100 * kMostLagShare);
  } else {
    f->valid = true;
  }
}

}  // namespace

double SortedQuantile(absl::Span<const double> sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

Distribution DistributionOf(std::vector<double> values) {
  Distribution d;
  d.count = static_cast<int64_t>(values.size());
  if (values.empty()) return d;
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  d.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double v : values) squares += (v - d.mean) * (v - d.mean);
  d.std = std::sqrt(squares / n);
  d.p50 = SortedQuantile(values, 0.5);
  d.p90 = SortedQuantile(values, 0.9);
  d.p95 = SortedQuantile(values, 0.95);
  d.p99 = SortedQuantile(values, 0.99);
  d.max = values.back();
  return d;
}

std::vector<double> GapsOf(const RequestRecord& record) {
  std::vector<double> gaps;
  for (size_t i = 1; i < record.chunks.size(); ++i) gaps.push_back(Seconds(record.chunks[i] - record.chunks[i - 1]));
  return gaps;
}

RequestFigures FiguresOfRequest(const RequestRecord& record) {
  RequestFigures f;
  f.send_lag = std::max(0.0, Seconds(record.sent - record.due));
  if (DeliveredAsPlanned(record)) {
    f.output_tokens = OutputTokens(record);
    if (!record.chunks.empty()) f.ttft = Seconds(record.chunks.front() - record.sent);
    f.second_token = SecondToken(record);
    if (record.chunks.size() >= 2) {
      const std::vector<double> gaps = GapsOf(record);
      f.largest_gap = *std::max_element(gaps.begin(), gaps.end());
      if (f.output_tokens >= 2) {
        f.tpot = Seconds(record.chunks.back() - record.chunks.front()) / static_cast<double>(f.output_tokens - 1);
      }
    }
  }
  if (record.outcome == LoadOutcome::kOk) {
    f.e2el = Seconds((record.chunks.empty() ? record.ended : record.chunks.back()) - record.sent);
    if (f.output_tokens > 0) f.normalised = *f.e2el / static_cast<double>(f.output_tokens);
  }
  Judge(record, &f);
  return f;
}

LoadFigures FiguresOf(const LoadRun& run) {
  LoadFigures f;
  f.requests = static_cast<int64_t>(run.records.size());
  f.over_saturated = run.over_saturated;
  std::vector<double> ttft, second_token, tpot, itl, largest_gap, normalised, e2el, send_lag;
  const auto add = [](const std::optional<double>& value, std::vector<double>* values) {
    if (value.has_value()) values->push_back(*value);
  };
  int64_t cached = 0, shared = 0, good_tokens = 0;
  absl::Duration last_end = run.elapsed;
  for (const RequestRecord& record : run.records) {
    ++f.outcomes[static_cast<size_t>(record.outcome)];
    f.has_targets = f.has_targets || HasTargets(record.targets);
    const RequestFigures r = FiguresOfRequest(record);
    add(r.ttft, &ttft);
    add(r.second_token, &second_token);
    add(r.tpot, &tpot);
    add(r.largest_gap, &largest_gap);
    add(r.normalised, &normalised);
    add(r.e2el, &e2el);
    send_lag.push_back(r.send_lag);
    Count(r.met_ttft, &f.met_ttft);
    Count(r.met_tpot, &f.met_tpot);
    Count(r.met_largest_gap, &f.met_largest_gap);
    Count(r.met_e2el, &f.met_e2el);
    if (r.judged) ++f.judged;
    if (r.good) {
      ++f.good;
      good_tokens += r.output_tokens;
    }
    if (DeliveredAsPlanned(record)) {
      const std::vector<double> gaps = GapsOf(record);
      itl.insert(itl.end(), gaps.begin(), gaps.end());
      f.input_tokens += record.prompt_tokens;
      f.output_tokens += r.output_tokens;
      cached += record.cached_tokens;
      shared += record.shared_prefix_tokens;
    } else {
      f.wasted_tokens += OutputTokens(record);
    }
    last_end = std::max(last_end, record.ended);
  }
  f.ttft = DistributionOf(std::move(ttft));
  f.second_token = DistributionOf(std::move(second_token));
  f.tpot = DistributionOf(std::move(tpot));
  f.itl = DistributionOf(std::move(itl));
  f.largest_gap = DistributionOf(std::move(largest_gap));
  f.normalised = DistributionOf(std::move(normalised));
  f.e2el = DistributionOf(std::move(e2el));
  f.send_lag = DistributionOf(std::move(send_lag));

  f.seconds = Seconds(last_end);
  const auto share = [](int64_t part, int64_t all) {
    return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
  };
  const auto per_second = [&](int64_t count) { return f.seconds > 0 ? static_cast<double>(count) / f.seconds : 0; };
  f.shed_rate = share(f.shed(), f.requests);
  f.error_rate = share(f.errors(), f.requests);
  f.request_throughput = per_second(f.completed());
  f.input_throughput = per_second(f.input_tokens);
  f.output_throughput = per_second(f.output_tokens);
  f.peak_output_throughput = PeakTokensPerSecond(run);
  f.goodput = per_second(f.good);
  f.token_goodput = per_second(good_tokens);
  f.good_share = share(f.good, f.judged);
  f.hit_rate = share(cached, f.input_tokens);
  f.hit_rate_ceiling = share(shared, f.input_tokens);
  const OpenRequests open(run);
  f.peak_concurrency = open.Peak();
  f.queue_grows = QueueGrows(run, open);
  SayWhetherValid(&f);
  return f;
}

absl::Span<const LatencyMetric> LatencyMetrics() {
  static constexpr LatencyMetric kMetrics[] = {
      {"ttft", "TTFT", "sent to first token", &LoadFigures::ttft},
      {"ttst", "second token", "sent to second token", &LoadFigures::second_token},
      {"tpot", "TPOT", "time per token after the first, one value a request", &LoadFigures::tpot},
      {"itl", "ITL", "gaps between deliveries, pooled", &LoadFigures::itl},
      {"largest_gap", "largest gap", "between two deliveries, one value a request", &LoadFigures::largest_gap},
      {"e2el", "E2EL", "sent to last token", &LoadFigures::e2el},
      {"normalised", "normalised", "E2EL per token", &LoadFigures::normalised},
      {"send_lag", "send lag", "due to sent: the client's own lateness", &LoadFigures::send_lag},
  };
  return kMetrics;
}

}  // namespace interlace
