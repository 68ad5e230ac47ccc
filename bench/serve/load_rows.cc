// Load runs in rows: JSON lines per request, CSV per run.
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_figures.h"
#include "bench/serve/load_json.h"

namespace interlace {
namespace {

using OrderedJson = nlohmann::ordered_json;

OrderedJson Optional(const std::optional<double>& value, double scale = 1) {
  return value.has_value() ? OrderedJson(*value * scale) : OrderedJson(nullptr);
}

OrderedJson Optional(const std::optional<bool>& value) {
  return value.has_value() ? OrderedJson(*value) : OrderedJson(nullptr);
}

std::string CsvCell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

std::string RequestJsonLines(const LoadRun& run) {
  std::string out;
  for (const RequestRecord& r : run.records) {
    const RequestFigures f = FiguresOfRequest(r);
    OrderedJson line = {{"index", r.index}, {"request_id", r.request_id}, {"label", run.label}, {"seed", run.seed}};
    line["offered_rate"] = run.offered_rate;
    if (r.session >= 0) line.update(OrderedJson{{"session", r.session}, {"turn", r.turn}});
    line["tenant"] = r.tenant;
    line["priority"] = r.priority;
    line["outcome"] = LoadOutcomeName(r.outcome);
    line["http_status"] = r.http_status;
    line["error"] = r.error;
    line["finish_reason"] = r.finish_reason;
    line["due_s"] = absl::ToDoubleSeconds(r.due);
    line["sent_s"] = absl::ToDoubleSeconds(r.sent);
    line["ended_s"] = absl::ToDoubleSeconds(r.ended);
    line["send_lag_ms"] = f.send_lag * 1e3;
    line["ttft_ms"] = Optional(f.ttft, 1e3);
    line["ttst_ms"] = Optional(f.second_token, 1e3);
    line["tpot_ms"] = Optional(f.tpot, 1e3);
    line["largest_gap_ms"] = Optional(f.largest_gap, 1e3);
    line["e2el_ms"] = Optional(f.e2el, 1e3);
    line["prompt_tokens"] = r.prompt_tokens;
    line["completion_tokens"] = r.completion_tokens;
    line["cached_tokens"] = r.cached_tokens;
    line["shared_prefix_tokens"] = r.shared_prefix_tokens;
    line["met_ttft"] = Optional(f.met_ttft);
    line["met_tpot"] = Optional(f.met_tpot);
    line["met_largest_gap"] = Optional(f.met_largest_gap);
    line["met_e2el"] = Optional(f.met_e2el);
    line["good"] = f.judged ? OrderedJson(f.good) : OrderedJson(nullptr);
    if (r.retry_after > absl::ZeroDuration()) line["retry_after_s"] = absl::ToDoubleSeconds(r.retry_after);
    if (!r.text.empty()) line["text"] = r.text;
    absl::StrAppend(&out, line.dump(-1, ' ', false, OrderedJson::error_handler_t::replace), "\n");
  }
  return out;
}

std::string LoadCsv(const std::vector<LoadRun>& runs) {
  std::vector<std::string> lines;
  for (const LoadRun& run : runs) {
    const LoadFigures f = FiguresOf(run);
    std::vector<std::pair<std::string, std::string>> cells = {
        {"label", run.label},
        {"server", run.server},
        {"model", run.model},
        {"dataset", run.dataset},
        {"arrivals", run.arrivals},
        {"offered_rate", absl::StrCat(run.offered_rate)},
        {"concurrency", absl::StrCat(run.concurrency)},
        {"seed", absl::StrCat(run.seed)},
        {"began", absl::FormatTime(absl::RFC3339_sec, run.began, absl::UTCTimeZone())},
        {"seconds", absl::StrCat(f.seconds)},
        {"requests", absl::StrCat(f.requests)}};
    for (int i = 0; i < kLoadOutcomes; ++i) {
      cells.emplace_back(LoadOutcomeName(static_cast<LoadOutcome>(i)),
                         absl::StrCat(f.outcomes[static_cast<size_t>(i)]));
    }
    const auto number = [&](const std::string& name, double value) { cells.emplace_back(name, absl::StrCat(value)); };
    number("request_throughput", f.request_throughput);
    number("input_throughput", f.input_throughput);
    number("output_throughput", f.output_throughput);
    number("goodput", f.goodput);
    number("token_goodput", f.token_goodput);
    number("good_share", f.good_share);
    number("hit_rate", f.hit_rate);
    number("hit_rate_ceiling", f.hit_rate_ceiling);
    number("peak_concurrency", static_cast<double>(f.peak_concurrency));
    cells.emplace_back("over_saturated", f.over_saturated ? "1" : "0");
    cells.emplace_back("queue_grows", f.queue_grows ? "1" : "0");
    cells.emplace_back("valid", f.valid ? "1" : "0");
    for (const LatencyMetric& metric : LatencyMetrics()) {
      const Distribution& d = f.*metric.field;
      const auto stat = [&](absl::string_view name, double value) {
        cells.emplace_back(absl::StrCat(metric.key, "_", name, "_ms"), d.count == 0 ? "" : absl::StrCat(value * 1e3));
      };
      cells.emplace_back(absl::StrCat(metric.key, "_count"), absl::StrCat(d.count));
      stat("mean", d.mean);
      stat("p50", d.p50);
      stat("p90", d.p90);
      stat("p95", d.p95);
      stat("p99", d.p99);
      stat("std", d.std);
      stat("max", d.max);
    }
    std::string heading, row;
    for (const auto& [name, value] : cells) {
      absl::StrAppend(&heading, heading.empty() ? "" : ",", name);
      absl::StrAppend(&row, row.empty() ? "" : ",", CsvCell(value));
    }
    if (lines.empty()) lines.push_back(heading);
    lines.push_back(row);
  }
  std::string out;
  for (const std::string& line : lines) absl::StrAppend(&out, line, "\r\n");
  return out;
}

}  // namespace interlace
