// The page of runs at scale.
#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/policy/scale_report.h"
#include "bench/serve/load_page_charts.h"
#include "bench/serve/page_parts.h"
#include "bench/serve/svg_chart.h"

namespace interlace {
namespace {

using ValueOf = std::function<double(const ScaleRow&)>;
using Rows = std::vector<const ScaleRow*>;

struct Picture {
  std::string title;
  ValueOf value;
  bool seconds = false, percent = false, log = false;
};

const std::vector<Picture>& Pictures() {
  static const auto* const pictures = new std::vector<Picture>{
      {"TTFT mean", [](const ScaleRow& r) { return r.figures.ttft.mean; }, true, false, true},
      {"TTFT p99", [](const ScaleRow& r) { return r.figures.ttft.p99; }, true, false, true},
      {"Largest gap p99", [](const ScaleRow& r) { return r.figures.largest_gap.p99; }, true, false, true},
      {"TPOT p99", [](const ScaleRow& r) { return r.figures.tpot.p99; }, true, false, true},
      {"Met all targets", [](const ScaleRow& r) { return r.figures.attained; }, false, true, false},
      {"Requests/s of one replica", [](const ScaleRow& r) { return r.figures.request_throughput / r.replicas; }, false,
       false, false},
      {"Prompt tokens from the cache", [](const ScaleRow& r) { return r.figures.hit_rate; }, false, true, false},
  };
  return *pictures;
}

// In the order in which they come first.
template <typename Value>
std::vector<Value> Distinct(const Rows& rows, const std::function<Value(const ScaleRow&)>& of) {
  std::vector<Value> values;
  for (const ScaleRow* row : rows) {
    if (std::find(values.begin(), values.end(), of(*row)) == values.end()) values.push_back(of(*row));
  }
  return values;
}

// A picture of each figure, a line for each value of `line`.
std::string Charts(const Rows& rows, const std::function<std::string(const ScaleRow&)>& line, const ChartAxis& x,
                   const ValueOf& place) {
  const std::vector<std::string> lines = Distinct<std::string>(rows, line);
  std::string legend = "<p class=\"legend\">";
  for (size_t i = 0; i < lines.size(); ++i) {
    absl::StrAppend(&legend, "<span>", LegendMark(static_cast<int>(i)), " ", EscapeXml(lines[i]), "</span>");
  }
  std::vector<std::string> drawn;
  for (const Picture& picture : Pictures()) {
    LineChart chart;
    chart.title = picture.title;
    chart.description = absl::StrCat(picture.title, " over ", x.title, ", a line for each of ", lines.size());
    chart.x = x;
    chart.y = {.log = picture.log, .seconds = picture.seconds, .percent = picture.percent};
    if (!picture.log) chart.y.low = 0;
    for (size_t i = 0; i < lines.size(); ++i) {
      ChartLine& drawn_line = chart.lines.emplace_back();
      drawn_line.label = lines[i];
      drawn_line.colour = static_cast<int>(i);
      for (const ScaleRow* row : rows) {
        if (line(*row) == lines[i]) drawn_line.points.push_back({.x = place(*row), .y = picture.value(*row)});
      }
      std::sort(drawn_line.points.begin(), drawn_line.points.end(),
                [](const ChartPoint& a, const ChartPoint& b) { return a.x < b.x; });
    }
    drawn.push_back(DrawLineChart(chart));
  }
  return absl::StrCat(legend, "</p>", FigureHtml(PictureGrid(drawn), "Every mark is one run."));
}

std::string Percent(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

std::string Table(const std::vector<ScaleRow>& rows) {
  const std::vector<std::string> heading = {"policy",          "route",
                                            "replicas",        "load",
                                            "requests",        "failed",
                                            "TTFT mean",       "TTFT p99",
                                            "TPOT mean",       "TPOT p99",
                                            "largest gap p99", "E2EL mean",
                                            "requests/s",      "output tok/s",
                                            "met all",         "cache hits",
                                            "hits possible",   "busy",
                                            "stalled",         "unevenness",
                                            "parks/request",   "preemptions/request",
                                            "simulated s",     "wall s"};
  std::vector<std::vector<std::string>> cells = {heading};
  for (const ScaleRow& r : rows) {
    const ScaleFigures& f = r.figures;
    cells.push_back({r.policy,
                     r.route,
                     absl::StrCat(r.replicas),
                     absl::StrFormat("%.3g", r.load),
                     absl::StrCat(f.requests),
                     absl::StrCat(f.failed),
                     ShortSeconds(f.ttft.mean),
                     ShortSeconds(f.ttft.p99),
                     ShortSeconds(f.tpot.mean),
                     ShortSeconds(f.tpot.p99),
                     ShortSeconds(f.largest_gap.p99),
                     ShortSeconds(f.e2el.mean),
                     ShortNumber(f.request_throughput),
                     ShortNumber(f.output_throughput),
                     Percent(f.attained),
                     Percent(f.hit_rate),
                     Percent(r.hit_ceiling),
                     Percent(f.busy),
                     Percent(f.stalled),
                     absl::StrFormat("%.2f", f.unevenness),
                     absl::StrFormat("%.2f", f.parks),
                     absl::StrFormat("%.2f", f.preemptions),
                     ShortNumber(r.simulated),
                     ShortNumber(r.wall)});
  }
  return PageTable(cells);
}

}  // namespace

std::string ScalePage(const ScaleReport& report) {
  Rows all;
  for (const ScaleRow& row : report.rows) all.push_back(&row);
  std::string body = PageHeader("Policies at scale, in virtual time", report.facts) + "<main>\n";
  const auto policy = [](const ScaleRow& r) { return r.policy; };
  const auto both = [](const ScaleRow& r) { return absl::StrCat(r.policy, ", ", r.route); };
  const auto load = [](const ScaleRow& r) { return r.load; };
  const auto replicas = [](const ScaleRow& r) { return static_cast<double>(r.replicas); };
  const auto place = [](const ScaleRow& r) { return absl::StrCat(r.replicas, " replicas, ", r.route); };
  if (Distinct<double>(all, load).size() > 1) {
    int section = 0;
    for (const std::string& where : Distinct<std::string>(all, place)) {
      Rows rows;
      std::copy_if(all.begin(), all.end(), std::back_inserter(rows),
                   [&](const ScaleRow* row) { return place(*row) == where; });
      body += PageSection(absl::StrCat("load", ++section), absl::StrCat("Over load: ", where),
                          Charts(rows, policy, {.title = "load, of what one replica carries"}, load));
    }
  }
  if (Distinct<double>(all, replicas).size() > 1) {
    int section = 0;
    for (double at : Distinct<double>(all, load)) {
      Rows rows;
      std::copy_if(all.begin(), all.end(), std::back_inserter(rows),
                   [&](const ScaleRow* row) { return row->load == at; });
      body += PageSection(absl::StrCat("replicas", ++section), absl::StrFormat("Over replicas: load %.3g", at),
                          Charts(rows, both, {.title = "replicas", .log = true}, replicas));
    }
  }
  body += PageSection("figures", "All figures", Table(report.rows));
  return PageShell("Policies at scale", body + "</main>\n");
}

}  // namespace interlace
