// The figures of the LayerKV experiment: rows, claims, tables, JSON.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/svg_chart.h"
#include "bench/study/layerkv_study.h"

namespace interlace {
namespace {

using nlohmann::ordered_json;

constexpr double kNear = 0.1;      // of the KV-limited rate: at saturation
constexpr double kBoundedGap = 4;  // seconds
constexpr double kSimulated = 0.15;

double MedianOver(const std::vector<const LayerKvPoint*>& points,
                  const std::function<double(const LayerKvPoint&)>& of) {
  std::vector<double> values;
  for (const LayerKvPoint* point : points) values.push_back(of(*point));
  return MedianOfValues(std::move(values));
}

// fcfs over the line, seed by seed: both had the same requests at the same times.
std::optional<double> Against(const LayerKvResult& result, const std::vector<const LayerKvPoint*>& points,
                              const std::function<double(const LoadFigures&)>& of) {
  const std::optional<size_t> fcfs = result.LineOf("fcfs");
  if (!fcfs) return std::nullopt;
  std::vector<double> ratios;
  for (const LayerKvPoint* point : points) {
    const LayerKvPoint* base = result.Find(*fcfs, point->share, point->seed);
    if (base != nullptr && of(point->figures) > 0) ratios.push_back(of(base->figures) / of(point->figures));
  }
  if (ratios.empty()) return std::nullopt;
  return MedianOfValues(std::move(ratios));
}

LayerKvRow RowOf(const LayerKvResult& result, size_t line, size_t share) {
  const std::vector<const LayerKvPoint*> points = result.At(line, share);
  LayerKvRow row{.line = line, .share = share, .seeds = points.size()};
  const auto median = [&](const std::function<double(const LoadFigures&)>& of) {
    return MedianOver(points, [&](const LayerKvPoint& p) { return of(p.figures); });
  };
  row.ttft = median([](const LoadFigures& f) { return f.ttft.mean; });
  row.ttft_p99 = median([](const LoadFigures& f) { return f.ttft.p99; });
  row.second = median([](const LoadFigures& f) { return f.second_token.mean; });
  row.tpot_p99 = median([](const LoadFigures& f) { return f.tpot.p99; });
  row.gap_p99 = median([](const LoadFigures& f) { return f.largest_gap.p99; });
  row.e2el = median([](const LoadFigures& f) { return f.e2el.mean; });
  row.rate = median([](const LoadFigures& f) { return f.request_throughput; });
  row.attained = median([](const LoadFigures& f) { return f.good_share; });
  row.parks = MedianOver(points, [](const LayerKvPoint& p) { return p.measured.parks; });
  row.ttft_factor = Against(result, points, [](const LoadFigures& f) { return f.ttft.mean; });
  row.ttft_p99_factor = Against(result, points, [](const LoadFigures& f) { return f.ttft.p99; });
  row.e2el_factor = Against(result, points, [](const LoadFigures& f) { return f.e2el.mean; });
  const std::optional<double> slower =
      Against(result, points, [](const LoadFigures& f) { return f.request_throughput; });
  if (slower && *slower > 0) row.throughput_ratio = 1 / *slower;
  if (std::all_of(points.begin(), points.end(), [](const LayerKvPoint* p) { return p->simulated.has_value(); })) {
    row.simulated_ttft = MedianOver(points, [](const LayerKvPoint& p) { return p.simulated->ttft.mean; });
  }
  for (const LayerKvPoint* point : points) {
    row.same += point->same;
    row.compared += point->compared;
    row.answered += point->figures.completed();
    row.requests += point->figures.requests;
  }
  return row;
}

std::string Times(double factor) { return absl::StrFormat(factor < 10 ? "%.2fx" : "%.1fx", factor); }
std::string Times(const std::optional<double>& factor) { return factor ? Times(*factor) : "-"; }

std::string Where(const LayerKvResult& result, const LayerKvRow& row) {
  return absl::StrFormat("%s at %.2f", result.options.lines[row.line].label, result.options.shares[row.share]);
}

bool Ours(const LayerKvResult& result, const LayerKvRow& row) {
  return ParksStreams(*result.options.lines[row.line].policy);
}

// The best of `rows` by `factor`, among those that `counts`.
LayerKvClaim BestFactor(const LayerKvResult& result, const std::vector<LayerKvRow>& rows, const std::string& what,
                        double aim, const std::function<std::optional<double>(const LayerKvRow&)>& factor,
                        const std::function<bool(const LayerKvRow&)>& counts) {
  LayerKvClaim claim{.what = what, .aim = absl::StrFormat("at least %gx", aim), .seen = "not run"};
  double best = 0;
  for (const LayerKvRow& row : rows) {
    const double value = factor(row).value_or(0);
    if (value <= best || !counts(row)) continue;
    best = value;
    claim.seen =
        absl::StrFormat("%s: %s, largest gap p99 %s", Where(result, row), Times(value), ShortSeconds(row.gap_p99));
  }
  claim.met = best >= aim;
  return claim;
}

// The worst of `rows` by `ratio`, which is to be at least `aim`.
LayerKvClaim WorstRatio(const LayerKvResult& result, const std::vector<LayerKvRow>& rows, const std::string& what,
                        double aim, const std::function<std::optional<double>(const LayerKvRow&)>& ratio) {
  LayerKvClaim claim{.what = what, .aim = absl::StrFormat("at least %.2f", aim), .seen = "not run"};
  double worst = INFINITY;
  for (const LayerKvRow& row : rows) {
    const std::optional<double> value = ratio(row);
    if (!value || *value >= worst || !Ours(result, row)) continue;
    worst = *value;
    claim.seen = absl::StrFormat("%s: %.3f", Where(result, row), *value);
  }
  claim.met = std::isfinite(worst) && worst >= aim;
  return claim;
}

LayerKvClaim TpotClaim(const LayerKvResult& result, const std::vector<LayerKvRow>& rows) {
  LayerKvClaim claim{.what = "TPOT p99 of slack and its kin", .aim = "within its target", .seen = "not run"};
  const std::optional<absl::Duration> target = result.options.load.targets.tpot;
  if (!target) return {claim.what, "no target was given", "-", true};
  const double limit = absl::ToDoubleSeconds(*target);
  claim.aim = absl::StrCat("at most ", ShortSeconds(limit));
  double worst = 0;
  for (const LayerKvRow& row : rows) {
    // Beyond what the cores do, every policy's streams are late.
    const bool carried = result.options.shares[row.share] * result.kv_rate <= result.cores_rate;
    if (!Ours(result, row) || !carried || row.tpot_p99 <= worst) continue;
    worst = row.tpot_p99;
    claim.seen = absl::StrCat(Where(result, row), ": ", ShortSeconds(worst));
  }
  claim.met = worst > 0 && worst <= limit;
  return claim;
}

LayerKvClaim TokensClaim(const std::vector<LayerKvRow>& rows) {
  int64_t same = 0, compared = 0, answered = 0, requests = 0;
  for (const LayerKvRow& row : rows) {
    same += row.same;
    compared += row.compared;
    answered += row.answered;
    requests += row.requests;
  }
  return {"answers, token by token", "all equal",
          absl::StrCat("equal: ", same, " of ", compared, "; answered: ", answered, " of ", requests),
          compared > 0 && same == compared && answered == requests};
}

LayerKvClaim SimulatedClaim(const LayerKvResult& result, const std::vector<LayerKvRow>& rows) {
  double worst = 0;
  int within = 0, all = 0;
  std::string where;
  for (const LayerKvRow& row : rows) {
    if (!row.simulated_ttft || row.ttft <= 0) continue;
    const double off = std::abs(*row.simulated_ttft / row.ttft - 1);
    ++all;
    within += off <= kSimulated ? 1 : 0;
    if (off < worst) continue;
    worst = off;
    where = Where(result, row);
  }
  return {"mean TTFT in virtual time", "within 15 % of the measured one",
          absl::StrFormat("within: %d of %d rows; farthest %s: %.0f %% off", within, all, where, 100 * worst),
          all > 0 && within == all};
}

ordered_json FiguresJson(const LoadFigures& f) {
  return {{"requests", f.requests},
          {"completed", f.completed()},
          {"mean_ttft_s", f.ttft.mean},
          {"p99_ttft_s", f.ttft.p99},
          {"mean_second_token_s", f.second_token.mean},
          {"mean_tpot_s", f.tpot.mean},
          {"p99_tpot_s", f.tpot.p99},
          {"p99_largest_gap_s", f.largest_gap.p99},
          {"mean_e2el_s", f.e2el.mean},
          {"request_throughput", f.request_throughput},
          {"output_throughput", f.output_throughput},
          {"attained", f.good_share},
          {"send_lag_p99_s", f.send_lag.p99},
          {"valid", f.valid}};
}

}  // namespace

std::vector<LayerKvRow> LayerKvRows(const LayerKvResult& result) {
  std::vector<LayerKvRow> rows;
  for (size_t share = 0; share < result.options.shares.size(); ++share) {
    for (size_t line = 0; line < result.options.lines.size(); ++line) {
      if (!result.At(line, share).empty()) rows.push_back(RowOf(result, line, share));
    }
  }
  return rows;
}

std::vector<LayerKvClaim> LayerKvClaims(const LayerKvResult& result) {
  const std::vector<LayerKvRow> rows = LayerKvRows(result);
  const auto saturated = [&](const LayerKvRow& row) {
    return Ours(result, row) && std::abs(result.options.shares[row.share] - 1) <= kNear + 1e-9;
  };
  const auto bounded = [&](const LayerKvRow& row) { return saturated(row) && row.gap_p99 <= kBoundedGap; };
  const auto ttft = [](const LayerKvRow& row) { return row.ttft_factor; };
  std::vector<LayerKvClaim> claims = {
      BestFactor(result, rows, "mean TTFT against fcfs, at saturation", 10, ttft, saturated),
      BestFactor(
          result, rows, "p99 TTFT against fcfs, at saturation", 5,
          [](const LayerKvRow& row) { return row.ttft_p99_factor; }, saturated),
      BestFactor(result, rows, "mean TTFT with the largest gap's p99 at most 4 s", 3, ttft, bounded),
      WorstRatio(result, rows, "requests/s against fcfs, at every rate", 0.99,
                 [](const LayerKvRow& row) { return row.throughput_ratio; }),
      WorstRatio(result, rows, "mean E2EL of fcfs over that of slack, at every rate", 0.99,
                 [](const LayerKvRow& row) { return row.e2el_factor; }),
      WorstRatio(result, rows, "mean TTFT of fcfs over that of slack, at every rate", 0.99, ttft),
      TpotClaim(result, rows)};
  if (result.real) claims.push_back(TokensClaim(rows));
  if (result.real && result.options.simulate) claims.push_back(SimulatedClaim(result, rows));
  return claims;
}

std::vector<std::vector<std::string>> LayerKvTable(const LayerKvResult& result) {
  const bool simulated = result.real && result.options.simulate;
  std::vector<std::string> heading = {"share",    "sent/s",  "policy",    "TTFT mean", "factor", "TTFT p99", "second",
                                      "TPOT p99", "gap p99", "E2EL mean", "req/s",     "met",    "parks"};
  if (simulated) heading.insert(heading.end(), {"TTFT virtual", "virtual / measured"});
  if (result.real) heading.push_back("same tokens");
  std::vector<std::vector<std::string>> cells = {heading};
  std::optional<size_t> share;
  for (const LayerKvRow& row : LayerKvRows(result)) {
    const bool first = share != row.share;
    share = row.share;
    std::vector<std::string> line = {
        first ? absl::StrFormat("%.2f", result.options.shares[row.share]) : "",
        first ? absl::StrFormat("%.3f", result.options.shares[row.share] * result.kv_rate) : "",
        result.options.lines[row.line].label,
        ShortSeconds(row.ttft),
        Times(row.ttft_factor),
        ShortSeconds(row.ttft_p99),
        ShortSeconds(row.second),
        ShortSeconds(row.tpot_p99),
        ShortSeconds(row.gap_p99),
        ShortSeconds(row.e2el),
        absl::StrFormat("%.3f", row.rate),
        absl::StrFormat("%.1f %%", 100 * row.attained),
        absl::StrFormat("%.0f", row.parks)};
    if (simulated) {
      line.push_back(row.simulated_ttft ? ShortSeconds(*row.simulated_ttft) : "-");
      line.push_back(row.simulated_ttft ? absl::StrFormat("%.2f", *row.simulated_ttft / row.ttft) : "-");
    }
    if (result.real) line.push_back(absl::StrCat(row.same, " of ", row.requests));
    cells.push_back(std::move(line));
  }
  return cells;
}

std::vector<std::vector<std::string>> LayerKvClaimTable(const LayerKvResult& result) {
  std::vector<std::vector<std::string>> cells = {{"what", "aim", "", "seen"}};
  for (const LayerKvClaim& claim : LayerKvClaims(result)) {
    cells.push_back({claim.what, claim.aim, claim.met ? "met" : "not met", claim.seen});
  }
  return cells;
}

std::string LayerKvJson(const LayerKvResult& result, const std::string& command) {
  const auto number = [](const std::optional<double>& value) { return value ? ordered_json(*value) : ordered_json(); };
  const LayerKvOptions& options = result.options;
  ordered_json out = {{"study", "layerkv"},
                      {"command", command},
                      {"measured", result.real},
                      {"interrupted", result.interrupted},
                      {"kv_limited_rate", result.kv_rate},
                      {"cores_limited_rate", result.cores_rate},
                      {"law",
                       {{"fixed_s", result.law.fixed},
                        {"row_s", result.law.row},
                        {"row_beyond_s", result.law.row_beyond},
                        {"position_s", result.law.context},
                        {"product_s", result.law.product},
                        {"moved_s_per_byte", result.law.moved},
                        {"link_bytes_per_s", result.law.link}}},
                      {"rows", ordered_json::array()},
                      {"runs", ordered_json::array()},
                      {"claims", ordered_json::array()}};
  for (const LayerKvRow& row : LayerKvRows(result)) {
    out["rows"].push_back({{"line", options.lines[row.line].label},
                           {"share", options.shares[row.share]},
                           {"rate", options.shares[row.share] * result.kv_rate},
                           {"seeds", row.seeds},
                           {"mean_ttft_s", row.ttft},
                           {"ttft_factor", number(row.ttft_factor)},
                           {"p99_ttft_s", row.ttft_p99},
                           {"p99_ttft_factor", number(row.ttft_p99_factor)},
                           {"mean_second_token_s", row.second},
                           {"p99_tpot_s", row.tpot_p99},
                           {"p99_largest_gap_s", row.gap_p99},
                           {"mean_e2el_s", row.e2el},
                           {"e2el_factor", number(row.e2el_factor)},
                           {"request_throughput", row.rate},
                           {"throughput_ratio", number(row.throughput_ratio)},
                           {"attained", row.attained},
                           {"parks", row.parks},
                           {"simulated_mean_ttft_s", number(row.simulated_ttft)},
                           {"same_answers", row.same},
                           {"compared_answers", row.compared}});
  }
  for (const LayerKvPoint& point : result.points) {
    ordered_json run = {{"line", options.lines[point.line].label},
                        {"share", options.shares[point.share]},
                        {"seed", point.seed},
                        {"slowness", point.slowness},
                        {"steps", point.measured.steps.steps()},
                        {"figures", FiguresJson(point.figures)}};
    if (point.simulated) {
      run["simulated"] = FiguresJson(*point.simulated);
      run["simulated"]["stall_s"] = point.simulated_stall;
      run["simulated"]["transfer_bytes"] = point.simulated_transferred;
    }
    out["runs"].push_back(std::move(run));
  }
  for (const LayerKvClaim& claim : LayerKvClaims(result)) {
    out["claims"].push_back({{"what", claim.what}, {"aim", claim.aim}, {"seen", claim.seen}, {"met", claim.met}});
  }
  return out.dump(1) + "\n";
}

}  // namespace interlace
