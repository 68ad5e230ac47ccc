// The LayerKV experiment as a page.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_page_charts.h"
#include "bench/serve/page_parts.h"
#include "bench/serve/svg_chart.h"
#include "bench/study/layerkv_study.h"

namespace interlace {
namespace {

constexpr size_t kMostDirectLabels = 5;  // more are told by the legend alone

// Where there are more lines than colours, swap is drawn as fcfs is, dashed and with open marks: it serves requests
// whole as well, and most of its figures are the same.
struct LineLook {
  int colour = 0;
  bool open = false;
};
LineLook LookOf(const LayerKvResult& result, size_t line) {
  const std::vector<StudyLine>& lines = result.options.lines;
  const std::optional<size_t> fcfs = result.LineOf("fcfs"), swap = result.LineOf("swap");
  const bool pair = lines.size() > kChartColours && fcfs && swap && *fcfs < *swap;
  if (pair && line == *swap) return {static_cast<int>(*fcfs), true};
  return {static_cast<int>(pair && line > *swap ? line - 1 : line), false};
}

std::string Legend(const LayerKvResult& result) {
  std::string out = "<p class=\"legend\">";
  for (size_t line = 0; line < result.options.lines.size(); ++line) {
    const LineLook look = LookOf(result, line);
    absl::StrAppend(&out, "<span>", LegendMark(look.colour, look.open), " ",
                    EscapeXml(result.options.lines[line].label), "</span>");
  }
  return out + "</p>\n";
}

// A picture over the rate: a line for each policy, its median over seeds with a bar from the least to the most.
struct OverShare {
  std::string title;
  std::function<double(const LoadFigures&)> value;
  ChartAxis y;
  std::optional<absl::Duration> target;
};

std::vector<double> ValuesAt(const std::vector<const LayerKvPoint*>& points, const OverShare& what) {
  std::vector<double> values;
  for (const LayerKvPoint* point : points) values.push_back(what.value(point->figures));
  std::sort(values.begin(), values.end());
  return values;
}

std::string Shown(const OverShare& what, double value) {
  if (what.y.seconds) return ShortSeconds(value);
  return what.y.percent ? absl::StrFormat("%.1f %%", 100 * value) : ShortNumber(value);
}

std::string Draw(const LayerKvResult& result, const OverShare& what) {
  const LayerKvOptions& options = result.options;
  LineChart chart;
  chart.title = what.title;
  chart.description = "over the rate, a line for each policy";
  const auto [least_share, most_share] = std::minmax_element(options.shares.begin(), options.shares.end());
  chart.x = {.title = "rate / rate that KV memory allows", .high = *most_share};
  if (*least_share == *most_share) chart.x.low = 0;
  chart.y = what.y;
  chart.direct_labels = options.lines.size() > 1 && options.lines.size() <= kMostDirectLabels;
  chart.rules = {{1, "KV memory", false}};
  if (result.cores_rate / result.kv_rate < *chart.x.high) {
    chart.rules.push_back({result.cores_rate / result.kv_rate, "cores", false});
  }
  if (what.target) chart.rules.push_back({absl::ToDoubleSeconds(*what.target), "target", true});
  double least = 1e300, most = 0;
  for (size_t line = 0; line < options.lines.size(); ++line) {
    const LineLook look = LookOf(result, line);
    ChartLine drawn = {.label = options.lines[line].label, .colour = look.colour, .dashed = look.open};
    for (size_t share = 0; share < options.shares.size(); ++share) {
      const std::vector<double> values = ValuesAt(result.At(line, share), what);
      if (values.empty()) continue;
      ChartPoint point = {.x = options.shares[share], .y = SortedQuantile(values, 0.5), .hollow = look.open};
      if (values.size() > 1) {
        point.low = values.front();
        point.high = values.back();
      }
      point.title = absl::StrFormat("%s at %.2f: %s", drawn.label, point.x, Shown(what, point.y));
      if (point.y > 0) least = std::min(least, values.front() > 0 ? values.front() : point.y);
      most = std::max(most, values.back());
      drawn.points.push_back(std::move(point));
    }
    std::sort(drawn.points.begin(), drawn.points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
    chart.lines.push_back(std::move(drawn));
  }
  if (what.y.seconds && most > 20 * least) {
    chart.y.log = true;
  } else if (!chart.y.low) {
    chart.y.low = 0;
  }
  return DrawLineChart(chart);
}

const char kSeedsCaption[] = "Marks: median of the seeds; bars: from the least seed to the most.";

std::string Curves(const LayerKvResult& result, absl::string_view which) {
  const LoadTargets& targets = result.options.load.targets;
  const ChartAxis seconds = {.seconds = true};
  const ChartAxis share = {.percent = true, .low = 0, .high = 1};
  std::vector<OverShare> pictures;
  if (which == "before") {
    pictures = {{"TTFT, mean", [](const LoadFigures& f) { return f.ttft.mean; }, seconds, targets.ttft},
                {"TTFT, p99", [](const LoadFigures& f) { return f.ttft.p99; }, seconds, targets.ttft},
                {"Second token, mean", [](const LoadFigures& f) { return f.second_token.mean; }, seconds, {}}};
  } else if (which == "after") {
    pictures = {
        {"TPOT, p99", [](const LoadFigures& f) { return f.tpot.p99; }, seconds, targets.tpot},
        {"Largest gap, p99", [](const LoadFigures& f) { return f.largest_gap.p99; }, seconds, targets.largest_gap},
        {"E2EL, mean", [](const LoadFigures& f) { return f.e2el.mean; }, seconds, {}}};
  } else {
    pictures = {{"Answers, requests/s", [](const LoadFigures& f) { return f.request_throughput; }, {}, {}},
                {"Output tokens/s", [](const LoadFigures& f) { return f.output_throughput; }, {}, {}},
                {"Requests that met all targets", [](const LoadFigures& f) { return f.good_share; }, share, {}}};
  }
  std::vector<std::string> drawn;
  for (const OverShare& what : pictures) drawn.push_back(Draw(result, what));
  return FigureHtml(PictureGrid(drawn), kSeedsCaption);
}

ChartPoint FrontierPoint(const LayerKvResult& result, const LayerKvRow& row) {
  ChartPoint point = {.x = row.gap_p99, .y = row.ttft_factor.value_or(1)};
  point.title = absl::StrFormat("%s at %.2f: TTFT factor %s, largest gap p99 %s", result.options.lines[row.line].label,
                                result.options.shares[row.share], ShortNumber(point.y), ShortSeconds(point.x));
  return point;
}

// What an earlier first token costs behind it. Left: the bound on parked requests moves along each line. Right: all
// policies at the rate nearest to what KV memory allows.
std::string Frontier(const LayerKvResult& result) {
  const std::vector<LayerKvRow> rows = LayerKvRows(result);
  const LayerKvOptions& options = result.options;
  LineChart bounds = {.title = "Bound on parked requests", .description = "a line for each rate"};
  bounds.x = {.title = "largest gap, p99", .log = true, .seconds = true};
  bounds.y = {.log = true};
  bounds.direct_labels = true;
  LineChart all = bounds;
  size_t nearest = 0;
  for (size_t share = 0; share < options.shares.size(); ++share) {
    if (std::abs(options.shares[share] - 1) < std::abs(options.shares[nearest] - 1)) nearest = share;
    ChartLine line = {.label = absl::StrFormat("%.2f", options.shares[share]), .colour = static_cast<int>(share)};
    for (const LayerKvRow& row : rows) {
      if (row.share == share && options.lines[row.line].policy->name == "slack") {
        line.points.push_back(FrontierPoint(result, row));
      }
    }
    if (!line.points.empty()) bounds.lines.push_back(std::move(line));
  }
  all.title = absl::StrFormat("All policies at %.2f", options.shares[nearest]);
  all.description = "a mark for each policy";
  for (const LayerKvRow& row : rows) {
    if (row.share != nearest) continue;
    const LineLook look = LookOf(result, row.line);
    ChartPoint point = FrontierPoint(result, row);
    point.hollow = look.open;
    all.lines.push_back({.label = options.lines[row.line].label, .colour = look.colour, .points = {std::move(point)}});
  }
  return FigureHtml(
      PictureGrid({DrawLineChart(bounds), DrawLineChart(all)}),
      "Upwards: how many times lower the mean TTFT is than that of fcfs at the same rate. To the right: how long the "
      "largest pause within an answer was. Left: policy slack, a mark for each bound on parked requests (the tooltip "
      "names it), a line for each rate.");
}

std::string Simulated(const LayerKvResult& result) {
  LineChart chart = {.title = "Mean TTFT: measured, and in virtual time", .description = "a mark for each row"};
  chart.x = {.title = "measured", .log = true, .seconds = true};
  chart.y = {.log = true, .seconds = true};
  double least = 1e300, most = 0;
  for (size_t line = 0; line < result.options.lines.size(); ++line) {
    const LineLook look = LookOf(result, line);
    ChartLine drawn = {.label = result.options.lines[line].label, .colour = look.colour, .dashed = look.open};
    for (const LayerKvRow& row : LayerKvRows(result)) {
      if (row.line != line || !row.simulated_ttft || row.ttft <= 0) continue;
      drawn.points.push_back({.x = row.ttft, .y = *row.simulated_ttft, .hollow = look.open});
      drawn.points.back().title =
          absl::StrFormat("%s at %.2f: %s, in virtual time %s", drawn.label, result.options.shares[row.share],
                          ShortSeconds(row.ttft), ShortSeconds(*row.simulated_ttft));
      least = std::min(least, row.ttft);
      most = std::max(most, row.ttft);
    }
    std::sort(drawn.points.begin(), drawn.points.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
    chart.lines.push_back(std::move(drawn));
  }
  for (const double off : {0.85, 1.0, 1.15}) {
    chart.lines.push_back({.label = "",
                           .colour = kChartColours - 1,
                           .marks = false,
                           .dashed = true,
                           .points = {{.x = least, .y = off * least}, {.x = most, .y = off * most}}});
  }
  const MachineLaw& law = result.law;
  const auto ms = [](double seconds) { return absl::StrFormat("%.4g", 1e3 * seconds); };
  return FigureHtml(
      PictureGrid({DrawLineChart(chart)}),
      absl::StrCat(
          "Dashed: equal, and 15 % off. The law of a step, fitted over all runs: ", ms(law.fixed), " ms + ",
          ms(law.row), " ms a row",
          law.row_beyond > 0 ? absl::StrCat(" (", ms(law.row + law.row_beyond), " beyond ", MachineLaw::kKnee, ")")
                             : "",
          " + ", absl::StrFormat("%.4g", 1e9 * law.context), " ns a position read + ",
          absl::StrFormat("%.3g", 1e9 * law.product), " ns a pair of query and key + ",
          absl::StrFormat("%.3g", 1e9 * law.moved),
          " s a GB that moves over the link. Each run is simulated with its own arrivals, on a machine that is as "
          "fast as this one was during the run."));
}

std::string Lead(const LayerKvResult& result) {
  return absl::StrFormat(
      "<p class=\"lead\">KV memory allows %.3g requests/s when every request keeps all layers on the device (fcfs), "
      "the "
      "cores %.3g with room for all.</p>",
      result.kv_rate, result.cores_rate);
}

}  // namespace

std::string LayerKvPage(const LayerKvResult& result, const std::vector<std::pair<std::string, std::string>>& facts) {
  const LayerKvOptions& options = result.options;
  PageFacts all = facts;
  const auto shown = [](const std::optional<absl::Duration>& target) {
    return target ? ShortSeconds(absl::ToDoubleSeconds(*target)) : std::string("none");
  };
  all.emplace_back("targets",
                   absl::StrCat("TTFT ", shown(options.load.targets.ttft), ", TPOT ", shown(options.load.targets.tpot),
                                ", largest gap ", shown(options.load.targets.largest_gap)));
  all.emplace_back("runs", absl::StrCat(result.points.size(), " of ", options.load.requests, " requests, ",
                                        options.seeds, " seeds", result.interrupted ? "; interrupted" : ""));
  const char* const title = "KV by layer: first tokens, and what they cost";
  const std::string legend = Legend(result);
  std::string body = absl::StrCat(PageHeader(title, all), "<main>\n");
  absl::StrAppend(&body,
                  PageSection("claims", "What was to be shown", Lead(result) + PageTable(LayerKvClaimTable(result))));
  if (!result.points.empty()) {
    absl::StrAppend(&body, PageSection("before", "Up to the first token", legend + Curves(result, "before")),
                    PageSection("after", "Behind the first token", legend + Curves(result, "after")),
                    PageSection("throughput", "Throughput and targets", legend + Curves(result, "throughput")),
                    PageSection("frontier", "The frontier", Frontier(result)));
    if (result.real && options.simulate) {
      absl::StrAppend(&body, PageSection("simulated", "The same in virtual time", legend + Simulated(result)));
    }
    absl::StrAppend(
        &body,
        PageSection("figures", "All figures",
                    absl::StrCat(PageTable(LayerKvTable(result)),
                                 "<p class=\"note\">Medians of the seeds. Factor: mean TTFT of fcfs over this one, "
                                 "with the same requests at the same times. Met: requests that met all of their "
                                 "targets. Same tokens: answers that equal, token by token, the first one that "
                                 "the request got in any run.</p>")));
  }
  return PageShell(title, body + "</main>\n");
}

}  // namespace interlace
