#include "bench/policy/scale_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace interlace {
namespace {

using OrderedJson = nlohmann::ordered_json;

double Seconds(absl::Duration duration) { return absl::ToDoubleSeconds(duration); }

bool Met(const ScaleRecord& record, const Targets& targets) {
  const auto within = [](absl::Duration value, const std::optional<absl::Duration>& target) {
    return !target.has_value() || value <= *target;
  };
  if (!record.ok || !within(record.first - record.due, targets.ttft)) return false;
  if (record.tokens < 2) return true;
  return within((record.last - record.first) / (record.tokens - 1), targets.tpot) &&
         within(record.largest_gap, targets.largest_gap);
}

// In tokens.
void AddMisses(const ScaleRecord& r, int32_t block_tokens, ScaleMisses* sum) {
  const int32_t whole = std::min(r.known, std::max(0, r.prompt - 1) / block_tokens * block_tokens);
  const int32_t anywhere = std::min(whole, r.prefix.anywhere), best = std::min(whole, r.prefix.best);
  const int32_t here = std::min(whole, r.prefix.here), found = std::min(whole, r.cached);
  sum->cut += r.known - whole - (r.cached - found);  // part of a block may be found as well
  sum->gone += whole - anywhere;
  sum->scattered += anywhere - best;
  sum->elsewhere += best - here;
  const int32_t missed = std::max(0, here - found);
  const int32_t coming = std::min(missed, r.prefix.coming);
  sum->coming += coming;
  sum->lost += missed - coming;
  sum->gained += std::max(0, found - here);
}

OrderedJson LatencyJson(const Distribution& d) {
  if (d.count == 0) return nullptr;
  return {{"count", d.count}, {"mean", d.mean}, {"p50", d.p50}, {"p90", d.p90}, {"p99", d.p99}, {"max", d.max}};
}

}  // namespace

ScaleFigures FiguresOf(const ScaleOutcome& outcome, const ScaleSetup& setup) {
  ScaleFigures f;
  std::vector<double> ttft, tpot, gap, e2el;
  std::vector<double> given(static_cast<size_t>(setup.replicas));
  double prompt = 0, cached = 0, tokens = 0;
  int64_t met = 0;
  for (const ScaleRecord& r : outcome.records) {
    ++f.requests;
    given[static_cast<size_t>(r.replica)] += r.prompt;
    met += Met(r, setup.targets) ? 1 : 0;
    f.handed += r.handed ? 1 : 0;
    if (!r.ok) {
      ++f.failed;
      continue;
    }
    prompt += r.prompt;
    cached += r.cached;
    AddMisses(r, setup.block_tokens, &f.misses);
    tokens += r.tokens;
    ttft.push_back(Seconds(r.first - r.due));
    e2el.push_back(Seconds(r.last - r.due));
    if (r.tokens < 2) continue;
    tpot.push_back(Seconds(r.last - r.first) / (r.tokens - 1));
    gap.push_back(Seconds(r.largest_gap));
  }
  const double elapsed = Seconds(outcome.elapsed);
  if (f.requests == 0 || elapsed <= 0) return f;
  f.ttft = DistributionOf(std::move(ttft));
  f.tpot = DistributionOf(std::move(tpot));
  f.largest_gap = DistributionOf(std::move(gap));
  f.e2el = DistributionOf(std::move(e2el));
  f.request_throughput = static_cast<double>(f.requests - f.failed) / elapsed;
  f.output_throughput = tokens / elapsed;
  f.attained = static_cast<double>(met) / static_cast<double>(f.requests);
  f.hit_rate = prompt > 0 ? cached / prompt : 0;
  for (double* share : {&f.misses.cut, &f.misses.gone, &f.misses.scattered, &f.misses.elsewhere, &f.misses.coming,
                        &f.misses.lost, &f.misses.gained}) {
    if (prompt > 0) *share /= prompt;
  }
  double busy = 0;
  for (double seconds : outcome.busy_seconds) busy += seconds;
  f.busy = busy / (elapsed * setup.replicas);
  const double most = *std::max_element(outcome.busy_seconds.begin(), outcome.busy_seconds.end());
  f.busiest = busy > 0 ? most * setup.replicas / busy : 0;
  f.stalled = outcome.stall_seconds / (elapsed * setup.replicas);
  double all = 0;
  for (double one : given) all += one;
  f.unevenness = *std::max_element(given.begin(), given.end()) * setup.replicas / all;
  f.parks = outcome.parks / static_cast<double>(f.requests);
  f.preemptions = outcome.preemptions / static_cast<double>(f.requests);
  f.handed /= static_cast<double>(f.requests);
  return f;
}

std::string ScaleJson(const ScaleReport& report) {
  OrderedJson json;
  for (const auto& [name, value] : report.facts) json["facts"][name] = value;
  json["capacity_of_one"] = report.capacity;
  json["runs"] = OrderedJson::array();
  for (const ScaleRow& row : report.rows) {
    const ScaleFigures& f = row.figures;
    json["runs"].push_back({{"policy", row.policy},
                            {"route", row.route},
                            {"replicas", row.replicas},
                            {"prefill_replicas", row.prefill},
                            {"load", row.load},
                            {"offered_rate", row.rate},
                            {"requests", f.requests},
                            {"failed", f.failed},
                            {"ttft_s", LatencyJson(f.ttft)},
                            {"tpot_s", LatencyJson(f.tpot)},
                            {"largest_gap_s", LatencyJson(f.largest_gap)},
                            {"e2el_s", LatencyJson(f.e2el)},
                            {"request_throughput", f.request_throughput},
                            {"output_throughput", f.output_throughput},
                            {"attained", f.attained},
                            {"hit_rate", f.hit_rate},
                            {"hit_rate_ceiling", row.hit_ceiling},
                            {"misses",
                             {{"cut", f.misses.cut},
                              {"gone", f.misses.gone},
                              {"scattered", f.misses.scattered},
                              {"elsewhere", f.misses.elsewhere},
                              {"coming", f.misses.coming},
                              {"lost", f.misses.lost},
                              {"gained", f.misses.gained}}},
                            {"busy", f.busy},
                            {"stalled", f.stalled},
                            {"unevenness", f.unevenness},
                            {"busiest", f.busiest},
                            {"parks_per_request", f.parks},
                            {"preemptions_per_request", f.preemptions},
                            {"handed_over", f.handed},
                            {"simulated_s", row.simulated},
                            {"wall_s", row.wall}});
  }
  return json.dump(1) + "\n";
}

}  // namespace interlace
