#include "bench/serve/load_page.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/serve/load_page_charts.h"
#include "bench/serve/load_page_points.h"
#include "bench/serve/page_parts.h"
#include "bench/serve/svg_chart.h"

namespace interlace {
namespace {

// The different values of all runs, in the order of the runs.
template <typename Get>
std::string Distinct(const std::vector<LoadRun>& runs, const Get& get) {
  std::vector<std::string> values;
  for (const LoadRun& run : runs) {
    std::string value = get(run);
    if (!value.empty() && std::find(values.begin(), values.end(), value) == values.end())
      values.push_back(std::move(value));
  }
  return absl::StrJoin(values, "; ");
}

std::string Targets(const LoadTargets& t) {
  std::vector<std::string> parts;
  const auto add = [&](const char* name, const std::optional<absl::Duration>& target) {
    if (target.has_value()) parts.push_back(absl::StrCat(name, " ", ShortSeconds(absl::ToDoubleSeconds(*target))));
  };
  add("TTFT", t.ttft);
  add("TPOT", t.tpot);
  add("largest gap", t.largest_gap);
  add("E2EL", t.e2el);
  return absl::StrJoin(parts, ", ");
}

std::string Header(const LoadReport& report, const LoadPoints& points, const std::string& title) {
  const std::vector<LoadRun>& runs = report.runs;
  double seconds = 0, client_cpu = 0;
  int64_t requests = 0, unsent = 0;
  for (const LoadRun& run : runs) {
    seconds += absl::ToDoubleSeconds(run.elapsed);
    client_cpu += absl::ToDoubleSeconds(run.client_cpu);
    requests += static_cast<int64_t>(run.records.size());
    unsent += run.unsent;
  }
  PageFacts facts;
  const auto fact = [&](absl::string_view name, const std::string& value) { facts.emplace_back(name, value); };
  fact("version", report.environment.commit);
  fact("model", Distinct(runs, [](const LoadRun& run) { return run.model; }));
  fact("hardware", report.environment.hardware);
  fact("server", Distinct(runs, [](const LoadRun& run) { return run.server; }));
  fact("workload", Distinct(runs, [](const LoadRun& run) { return run.dataset; }));
  fact("arrivals", Distinct(runs, [](const LoadRun& run) { return run.arrivals; }));
  fact("rates", Distinct(runs, [](const LoadRun& run) {
         return run.offered_rate > 0 ? absl::StrFormat("%.4g", run.offered_rate) : std::string();
       }));
  fact("open at once", Distinct(runs, [](const LoadRun& run) {
         return run.concurrency > 0 ? absl::StrCat("at most ", run.concurrency) : std::string();
       }));
  fact("targets", Targets(points.targets));
  fact("seeds", Distinct(runs, [](const LoadRun& run) { return absl::StrCat(run.seed); }));
  fact("requests", absl::StrCat(requests, " in ", runs.size(), runs.size() == 1 ? " run" : " runs",
                                unsent > 0 ? absl::StrCat(", ", unsent, " not sent") : ""));
  fact("duration", absl::StrFormat("%.4g s", seconds));
  if (client_cpu > 0) fact("client's CPU", absl::StrFormat("%.3g s", client_cpu));
  fact("began", absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", runs[0].began, absl::UTCTimeZone()));
  fact("command", report.environment.command);
  return PageHeader(title, facts);
}

// What a reader must know before trusting a figure.
std::string Warnings(const LoadPoints& points) {
  constexpr int kMostWarningsShown = 6;
  std::string items;
  int count = 0;
  for (const LoadPoint& point : points.points) {
    for (size_t i = 0; i < point.runs.size(); ++i) {
      const std::string name =
          absl::StrCat(points.labels[point.line], ", ", points.AtText(point.at), ", seed ", point.runs[i]->seed);
      if (!point.figures[i].valid) {
        ++count;
        absl::StrAppend(&items, "<li><b>Not valid:</b> ",
                        EscapeXml(absl::StrCat(name, ": ", point.figures[i].invalid_because)), "</li>");
      }
      if (point.runs[i]->over_saturated) {
        ++count;
        absl::StrAppend(&items, "<li><b>Over-saturated:</b> ",
                        EscapeXml(absl::StrCat(name, ": ", point.runs[i]->stopped_because)), "</li>");
      }
    }
  }
  if (items.empty()) return "";
  const std::string list = absl::StrCat("<ul>", items, "</ul>");
  if (count <= kMostWarningsShown) return absl::StrCat("<div class=\"warnings\">", list, "</div>\n");
  return absl::StrCat("<details class=\"warnings\"><summary>", count, " doubts about these figures</summary>", list,
                      "</details>\n");
}

// Large figures of a page that has only one point per label.
std::string Tiles(const LoadPoints& points) {
  std::string out;
  for (const LoadPoint& point : points.points) {
    std::string tiles;
    const auto tile = [&](absl::string_view name, const std::string& value) {
      absl::StrAppend(&tiles, "<div><span>", EscapeXml(name), "</span><b>", EscapeXml(value), "</b></div>");
    };
    const auto latency = [&](absl::string_view name, Distribution LoadFigures::*field, double Distribution::*stat) {
      const bool exists = std::all_of(point.figures.begin(), point.figures.end(),
                                      [&](const LoadFigures& f) { return (f.*field).count > 0; });
      tile(name, exists ? ShortSeconds(MedianOf(point, [&](const LoadFigures& f) { return f.*field.*stat; })) : "none");
    };
    latency("TTFT p50", &LoadFigures::ttft, &Distribution::p50);
    latency("TTFT p99", &LoadFigures::ttft, &Distribution::p99);
    latency("TPOT p50", &LoadFigures::tpot, &Distribution::p50);
    latency("largest gap p99", &LoadFigures::largest_gap, &Distribution::p99);
    tile("output tokens/s", ShortNumber(MedianOf(point, [](const LoadFigures& f) { return f.output_throughput; })));
    if (points.has_targets) {
      tile("goodput, requests/s", ShortNumber(MedianOf(point, [](const LoadFigures& f) { return f.goodput; })));
      tile("met all targets",
           absl::StrFormat("%.3g %%", 100 * MedianOf(point, [](const LoadFigures& f) { return f.good_share; })));
    } else {
      tile("answers, requests/s",
           ShortNumber(MedianOf(point, [](const LoadFigures& f) { return f.request_throughput; })));
    }
    if (points.points.size() > 1) absl::StrAppend(&out, "<h3>", EscapeXml(points.labels[point.line]), "</h3>");
    absl::StrAppend(&out, "<div class=\"tiles\">", tiles, "</div>");
  }
  return out;
}

std::string PointName(const LoadPoints& points, const LoadPoint& point) {
  return points.labels.size() > 1 ? absl::StrCat(points.labels[point.line], ", ", points.AtText(point.at))
                                  : points.AtText(point.at);
}

std::string Number(const LoadPoint& point, const FigureOf& figure) { return ShortNumber(MedianOf(point, figure)); }

std::string Percent(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

std::string CountTable(const LoadPoints& points) {
  std::vector<std::vector<std::string>> rows = {{"", "requests", "ok", "shed", "failed", "cancelled", "requests/s",
                                                 "input tok/s", "output tok/s", "best second tok/s", "most open",
                                                 "valid"}};
  for (const LoadPoint& point : points.points) {
    const auto total = [&](const std::function<int64_t(const LoadFigures&)>& count) {
      int64_t sum = 0;
      for (const LoadFigures& f : point.figures) sum += count(f);
      return absl::StrCat(sum);
    };
    rows.push_back(
        {PointName(points, point), total([](const LoadFigures& f) { return f.requests; }),
         total([](const LoadFigures& f) { return f.completed(); }),
         total([](const LoadFigures& f) { return f.shed(); }), total([](const LoadFigures& f) { return f.errors(); }),
         total([](const LoadFigures& f) { return f.cancelled(); }),
         Number(point, [](const LoadFigures& f) { return f.request_throughput; }),
         Number(point, [](const LoadFigures& f) { return f.input_throughput; }),
         Number(point, [](const LoadFigures& f) { return f.output_throughput; }),
         Number(point, [](const LoadFigures& f) { return f.peak_output_throughput; }),
         Number(point, [](const LoadFigures& f) { return static_cast<double>(f.peak_concurrency); }),
         absl::StrCat(total([](const LoadFigures& f) { return f.valid ? 1 : 0; }), " of ", point.figures.size())});
  }
  return PageTable(rows);
}

std::string TargetTable(const LoadPoints& points) {
  std::vector<std::vector<std::string>> rows = {{"", "goodput", "good tok/s", "met all", "met TTFT", "met TPOT",
                                                 "met gap", "met E2EL", "cache hits", "hits possible"}};
  for (const LoadPoint& point : points.points) {
    const auto met = [&](Attainment LoadFigures::*target) {
      Attainment sum;
      for (const LoadFigures& f : point.figures) {
        sum.asked += (f.*target).asked;
        sum.met += (f.*target).met;
      }
      return sum.asked == 0 ? std::string("-") : Percent(sum.share());
    };
    const auto with_targets = [&](std::string text) { return points.has_targets ? std::move(text) : std::string("-"); };
    rows.push_back(
        {PointName(points, point), with_targets(Number(point, [](const LoadFigures& f) { return f.goodput; })),
         with_targets(Number(point, [](const LoadFigures& f) { return f.token_goodput; })),
         with_targets(Percent(MedianOf(point, [](const LoadFigures& f) { return f.good_share; }))),
         met(&LoadFigures::met_ttft), met(&LoadFigures::met_tpot), met(&LoadFigures::met_largest_gap),
         met(&LoadFigures::met_e2el), Percent(MedianOf(point, [](const LoadFigures& f) { return f.hit_rate; })),
         Percent(MedianOf(point, [](const LoadFigures& f) { return f.hit_rate_ceiling; }))});
  }
  return PageTable(rows);
}

std::string LatencyTables(const LoadPoints& points) {
  std::string out;
  for (size_t line = 0; line < points.labels.size(); ++line) {
    std::vector<std::vector<std::string>> rows = {
        {"", "latency", "count", "mean", "p50", "p90", "p95", "p99", "max", "std"}};
    for (const LoadPoint& point : points.points) {
      if (point.line != line) continue;
      for (const LatencyMetric& metric : LatencyMetrics()) {
        int64_t count = 0;
        bool exists = true;
        for (const LoadFigures& f : point.figures) {
          count += (f.*metric.field).count;
          exists = exists && (f.*metric.field).count > 0;
        }
        const auto stat = [&](double Distribution::*member) {
          if (!exists) return std::string("-");
          return ShortSeconds(MedianOf(point, [&](const LoadFigures& f) { return f.*metric.field.*member; }));
        };
        rows.push_back({&metric == LatencyMetrics().data() ? points.AtText(point.at) : "", std::string(metric.name),
                        absl::StrCat(count), stat(&Distribution::mean), stat(&Distribution::p50),
                        stat(&Distribution::p90), stat(&Distribution::p95), stat(&Distribution::p99),
                        stat(&Distribution::max), stat(&Distribution::std)});
      }
    }
    absl::StrAppend(&out, "<details", line == 0 ? " open=\"open\"" : "", "><summary>Latencies",
                    points.labels.size() > 1 ? absl::StrCat(", ", EscapeXml(points.labels[line])) : "", "</summary>",
                    "<div class=\"latencies\">", PageTable(rows), "</div></details>\n");
  }
  return out;
}

std::string Definitions() {
  std::string out = "<details><summary>What the names mean</summary><dl class=\"terms\">";
  for (const LatencyMetric& metric : LatencyMetrics()) {
    absl::StrAppend(&out, "<div><dt>", EscapeXml(metric.name), "</dt><dd>", EscapeXml(metric.meaning), "</dd></div>");
  }
  return absl::StrCat(
      out,
      "<div><dt>goodput</dt><dd>requests/s that ended well and met all of their targets</dd></div>"
      "<div><dt>valid</dt><dd>the send lag's p99 is at most 5 % of the median TTFT</dd></div></dl></details>\n");
}

std::string CapacitySection(const CapacityResult& capacity) {
  std::string text =
      capacity.rate <= 0
          ? absl::StrCat("No rate was found at which the targets hold: ", capacity.stopped_because, ".")
          : absl::StrFormat("%s%.4g requests/s, 95 %% interval %.4g to %.4g over %d seed%s%s.",
                            capacity.at_least ? "At least " : "", capacity.rate, capacity.low, capacity.high,
                            capacity.seeds.size(), capacity.seeds.size() == 1 ? " (the bracket of the search)" : "s",
                            capacity.stopped_because.empty() ? "" : "; " + capacity.stopped_because);
  std::vector<std::vector<std::string>> rows = {{"step", "seed", "requests/s", "met all", "", "why"}};
  for (size_t i = 0; i < capacity.steps.size(); ++i) {
    const CapacityStep& step = capacity.steps[i];
    rows.push_back({absl::StrCat(i + 1), absl::StrCat(step.seed), absl::StrFormat("%.4g", step.rate),
                    absl::StrFormat("%.1f %%", 100 * step.share), step.holds ? "holds" : "fails", step.why});
  }
  return absl::StrCat("<p class=\"lead\">", EscapeXml(text), "</p><details><summary>", capacity.steps.size(),
                      " steps of the search</summary>", PageTable(rows), "</details>\n");
}

}  // namespace

std::string LoadPage(const LoadReport& report, const std::string& title) {
  std::string body;
  if (report.runs.empty()) {
    body = absl::StrCat("<header><h1>", EscapeXml(title), "</h1></header><p>No runs.</p>");
  } else {
    const LoadPoints points = PointsOf(report.runs);
    const std::string legend = LegendHtml(points);
    body = absl::StrCat(Header(report, points, title), "<main>\n", Warnings(points));
    if (report.capacity.has_value()) body += PageSection("capacity", "Capacity", CapacitySection(*report.capacity));
    if (points.places.size() > 1) {
      body += PageSection("latency", points.closed_loop ? "Latency and open requests" : "Latency and rate",
                          legend + LatencyFigures(points, report.capacity));
      body += PageSection("goodput", "Goodput", legend + GoodputFigures(points, report.capacity));
      body += PageSection("throughput", "Throughput and latency", legend + ThroughputFigures(points));
    } else {
      body += PageSection("summary", absl::StrCat("At ", points.AtText(points.places[0])), Tiles(points));
    }
    body += PageSection("outcomes", "What became of the requests", OutcomeFigures(points));
    body += PageSection("distributions", "Distributions", legend + DistributionFigures(points));
    body += PageSection("gaps", "Gaps over time", GapFigures(points));
    body += PageSection("requests", "Single requests", WaterfallFigures(points));
    body += PageSection(
        "figures", "All figures",
        absl::StrCat(CountTable(points), TargetTable(points), LatencyTables(points),
                     "<p class=\"note\">Counts are over all seeds; other figures are the median of the seeds.</p>",
                     Definitions()));
    body += "</main>\n";
  }
  return PageShell(title, body);
}

}  // namespace interlace
