#include "bench/serve/load_page_charts.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/page_parts.h"
#include "bench/serve/svg_chart.h"

namespace interlace {
namespace {

constexpr size_t kMostDirectLabels = 5;  // more are told by the legend alone
constexpr size_t kMostCdfPoints = 240;

std::string XTitle(const LoadPoints& points) {
  return points.closed_loop ? "requests open at once" : "offered rate, requests/s";
}

// A line per label: the median over seeds, with a bar from the least to the most of them.
struct OverRate {
  std::string title, description;
  FigureOf value;
  std::function<bool(const LoadFigures&)> exists = [](const LoadFigures&) { return true; };
  ChartAxis y;
  std::vector<ChartRule> rules;
  bool diagonal = false;
  bool dashed = false;
};

ChartPoint PointAt(const LoadPoints& points, const LoadPoint& point, const OverRate& what) {
  ChartPoint p;
  p.x = point.at;
  p.y = MedianOf(point, what.value);
  if (point.figures.size() > 1) {
    p.low = LeastOf(point, what.value);
    p.high = MostOf(point, what.value);
  }
  p.hollow = point.saturated();
  p.title = absl::StrCat(points.labels[point.line], ", ", points.AtText(point.at), ": ",
                         what.y.seconds   ? ShortSeconds(p.y)
                         : what.y.percent ? absl::StrCat(ShortNumber(100 * p.y), " %")
                                          : ShortNumber(p.y),
                         p.hollow ? ", saturated" : "");
  return p;
}

std::string DrawOverRate(const LoadPoints& points, const OverRate& what) {
  LineChart chart;
  chart.title = what.title;
  chart.description = what.description;
  chart.x.title = XTitle(points);
  chart.y = what.y;
  chart.rules = what.rules;
  chart.diagonal = what.diagonal;
  chart.direct_labels = points.labels.size() > 1 && points.labels.size() <= kMostDirectLabels;
  chart.x.low = 0;
  chart.x.high = points.places.back();
  double least = 1e300, most = 0;
  for (const ChartRule& rule : what.rules) {
    if (!rule.level) continue;
    least = std::min(least, rule.at);
    most = std::max(most, rule.at);
  }
  for (size_t line = 0; line < points.labels.size(); ++line) {
    ChartLine l = {.label = points.labels[line], .colour = static_cast<int>(line), .dashed = what.dashed};
    for (const LoadPoint& point : points.points) {
      if (point.line != line || !std::all_of(point.figures.begin(), point.figures.end(), what.exists)) continue;
      l.points.push_back(PointAt(points, point, what));
      if (l.points.back().y > 0) least = std::min(least, l.points.back().y);
      most = std::max(most, l.points.back().y);
    }
    chart.lines.push_back(std::move(l));
  }
  if (what.y.seconds && most > 20 * least) {
    chart.y.log = true;  // saturation is orders of magnitude away
  } else if (!chart.y.low.has_value()) {
    chart.y.low = 0;
  }
  return DrawLineChart(chart);
}

void AddCapacity(const std::optional<CapacityResult>& capacity, OverRate* what) {
  if (capacity.has_value() && capacity->rate > 0) what->rules.push_back({capacity->rate, "capacity", false});
}

const char kSeedsCaption[] =
    "Marks: median of the seeds; bars: from the least seed to the most. Open marks: saturated, the queue grew as long "
    "as "
    "the run went on, so that the figure depends on its length.";

// At most kMostCdfPoints, evenly by rank but with each of the largest.
ChartLine CdfLine(std::vector<double> values, const std::string& label, int colour) {
  std::sort(values.begin(), values.end());
  ChartLine line = {.label = label, .colour = colour, .marks = false, .steps = true};
  const size_t n = values.size();
  const size_t stride = std::max<size_t>(1, n / (kMostCdfPoints - 20));
  for (size_t i = 0; i < n; ++i) {
    if (i % stride != 0 && i + 20 < n) continue;
    line.points.push_back({.x = values[i], .y = static_cast<double>(i + 1) / static_cast<double>(n)});
  }
  return line;
}

// `log`: always over the logarithm; else where the values are orders of magnitude apart.
std::string Cdf(const LoadPoints& points, const std::string& title, bool log,
                const std::function<void(const RequestRecord&, std::vector<double>*)>& add) {
  LineChart chart;
  chart.title = title;
  chart.description = "cumulative distribution";
  double least = 1e300, most = 0;
  for (size_t line = 0; line < points.labels.size(); ++line) {
    std::vector<double> values;
    for (const LoadRun* run : points.Shown(line).runs) {
      for (const RequestRecord& record : run->records) add(record, &values);
    }
    for (const double v : values) {
      if (v > 0) least = std::min(least, v);
      most = std::max(most, v);
    }
    chart.lines.push_back(CdfLine(std::move(values), points.labels[line], static_cast<int>(line)));
  }
  log = log || most > 50 * least;
  chart.x = {.title = log ? "time, logarithmic" : "time", .log = log, .seconds = true};
  if (!log) chart.x.low = 0;
  chart.y = {.percent = true, .low = 0, .high = 1};
  return DrawLineChart(chart);
}

struct OutcomeStyle {
  LoadOutcome outcome;
  const char* css;
};
constexpr OutcomeStyle kOutcomes[] = {
    {LoadOutcome::kOk, "o-ok"},
    {LoadOutcome::kCancelled, "o-cancelled"},
    {LoadOutcome::kShed, "o-shed"},
    {LoadOutcome::kRefused, "o-refused"},
    {LoadOutcome::kFailed, "o-failed"},
    {LoadOutcome::kTruncated, "o-truncated"},
    {LoadOutcome::kGarbage, "o-garbage"},
    {LoadOutcome::kTimeout, "o-timeout"},
    {LoadOutcome::kNoConnection, "o-lost"},
};

}  // namespace

std::string FigureHtml(const std::string& picture, const std::string& caption) {
  return absl::StrCat("<figure>", picture, "<figcaption>", EscapeXml(caption), "</figcaption></figure>\n");
}

std::string LegendHtml(const LoadPoints& points) {
  if (points.labels.size() < 2) return "";
  std::string out = "<p class=\"legend\">";
  for (size_t line = 0; line < points.labels.size(); ++line) {
    absl::StrAppend(&out, "<span>", LegendMark(static_cast<int>(line)), " ", EscapeXml(points.labels[line]), "</span>");
  }
  return out + "</p>\n";
}

std::string LatencyFigures(const LoadPoints& points, const std::optional<CapacityResult>& capacity) {
  struct Latency {
    const char* name;
    Distribution LoadFigures::*field;
    std::optional<absl::Duration> target;
  };
  const Latency latencies[] = {{"TTFT", &LoadFigures::ttft, points.targets.ttft},
                               {"TPOT", &LoadFigures::tpot, points.targets.tpot},
                               {"Largest gap", &LoadFigures::largest_gap, points.targets.largest_gap}};
  const std::pair<const char*, double Distribution::*> stats[] = {
      {"p50", &Distribution::p50}, {"p90", &Distribution::p90}, {"p99", &Distribution::p99}};
  std::vector<std::string> pictures;
  for (const Latency& latency : latencies) {
    for (const auto& [stat, member] : stats) {
      OverRate what;
      what.title = absl::StrCat(latency.name, " ", stat);
      what.description = "over the load, a line per label";
      what.value = [field = latency.field, member = member](const LoadFigures& f) { return f.*field.*member; };
      what.exists = [field = latency.field](const LoadFigures& f) { return (f.*field).count > 0; };
      what.y.seconds = true;
      if (latency.target.has_value()) {
        what.rules.push_back({absl::ToDoubleSeconds(*latency.target), "target", true});
      }
      AddCapacity(capacity, &what);
      pictures.push_back(DrawOverRate(points, what));
    }
  }
  return FigureHtml(PictureGrid(pictures), kSeedsCaption);
}

std::string GoodputFigures(const LoadPoints& points, const std::optional<CapacityResult>& capacity) {
  std::vector<std::string> pictures;
  std::string caption;
  if (points.has_targets) {
    OverRate goodput = {.title = "Goodput, requests/s",
                        .description = "requests that met all of their targets",
                        .value = [](const LoadFigures& f) { return f.goodput; }};
    goodput.diagonal = !points.closed_loop;
    AddCapacity(capacity, &goodput);
    OverRate share = {.title = "Requests that met all targets",
                      .description = "share of those that the client did not cancel",
                      .value = [](const LoadFigures& f) { return f.good_share; }};
    share.y = {.percent = true, .low = 0, .high = 1};
    AddCapacity(capacity, &share);
    pictures = {DrawOverRate(points, goodput), DrawOverRate(points, share)};
    caption = "Goodput counts answers that ended well and met all of their targets. ";
    if (!points.closed_loop) absl::StrAppend(&caption, "Dotted: all that was offered. ");
  } else {
    OverRate answers = {.title = "Answers, requests/s",
                        .description = "answers that ended well",
                        .value = [](const LoadFigures& f) { return f.request_throughput; }};
    answers.diagonal = !points.closed_loop;
    pictures = {DrawOverRate(points, answers)};
    caption = "No request has a target: what ended well stands for goodput. ";
  }
  OverRate lost = {.title = "Shed or failed",
                   .description = "share of all requests",
                   .value = [](const LoadFigures& f) { return f.shed_rate + f.error_rate; }};
  lost.y = {.percent = true, .low = 0, .high = 1};
  lost.dashed = true;
  pictures.push_back(DrawOverRate(points, lost));
  return FigureHtml(PictureGrid(pictures),
                    absl::StrCat(caption, "Shed or failed: refused before they began, or ended by any error."));
}

std::string ThroughputFigures(const LoadPoints& points) {
  const auto draw = [&](const std::string& title, bool seconds, const FigureOf& y, const FigureOf& x,
                        Distribution LoadFigures::*needed) {
    LineChart chart;
    chart.title = title;
    chart.description = "over output tokens/s, a line per label, a mark per rate";
    chart.x = {.title = "output tokens/s, all requests", .low = 0};
    chart.y.seconds = seconds;
    chart.direct_labels = points.labels.size() > 1 && points.labels.size() <= kMostDirectLabels;
    double least = 1e300, most = 0, most_tokens = 0;
    for (size_t line = 0; line < points.labels.size(); ++line) {
      ChartLine l = {.label = points.labels[line], .colour = static_cast<int>(line)};
      for (const LoadPoint& point : points.points) {
        if (point.line != line || std::any_of(point.figures.begin(), point.figures.end(),
                                              [&](const LoadFigures& f) { return (f.*needed).count == 0; })) {
          continue;
        }
        ChartPoint p = {.x = MedianOf(point, x), .y = MedianOf(point, y), .hollow = point.saturated()};
        p.title =
            absl::StrCat(points.labels[line], ", ", points.AtText(point.at), ": ", ShortNumber(p.x), " tokens/s, ",
                         seconds ? ShortSeconds(p.y) : absl::StrCat(ShortNumber(p.y), " tokens/s a request"));
        least = std::min(least, p.y);
        most = std::max(most, p.y);
        most_tokens = std::max(most_tokens, p.x);
        l.points.push_back(std::move(p));
      }
      chart.lines.push_back(std::move(l));
    }
    if (most_tokens > 0) chart.x.high = most_tokens;
    if (seconds && most > 20 * least) {
      chart.y.log = true;
    } else {
      chart.y.low = 0;
    }
    return DrawLineChart(chart);
  };
  const FigureOf tokens = [](const LoadFigures& f) { return f.output_throughput; };
  return FigureHtml(
      PictureGrid({draw(
                       "TTFT p50", true, [](const LoadFigures& f) { return f.ttft.p50; }, tokens, &LoadFigures::ttft),
                   draw(
                       "E2EL p50", true, [](const LoadFigures& f) { return f.e2el.p50; }, tokens, &LoadFigures::e2el),
                   draw(
                       "Tokens/s of one request", false,
                       [](const LoadFigures& f) { return f.tpot.p50 > 0 ? 1 / f.tpot.p50 : std::nan(""); }, tokens,
                       &LoadFigures::tpot)}),
      "Each mark is a rate, joined from low to high. Right and low is better in the first two, right and high in the "
      "last: "
      "1 / TPOT p50 against what all requests get together.");
}

std::string OutcomeFigures(const LoadPoints& points) {
  StackedBars bars;
  bars.description = "outcomes of the requests";
  bool seen[kLoadOutcomes] = {};
  for (const LoadPoint& point : points.points) {
    int64_t all = 0, ok = 0;
    int64_t counts[kLoadOutcomes] = {};
    for (const LoadFigures& f : point.figures) {
      all += f.requests;
      ok += f.completed();
      for (size_t i = 0; i < kLoadOutcomes; ++i) counts[i] += f.outcomes[i];
    }
    StackedBars::Row row;
    row.label = absl::StrCat(points.labels.size() > 1 ? points.labels[point.line] + ", " : "", points.AtText(point.at));
    row.note = absl::StrFormat("%d of %d ok", ok, all);
    for (const OutcomeStyle& style : kOutcomes) {
      const int64_t count = counts[static_cast<size_t>(style.outcome)];
      if (count == 0) continue;
      seen[static_cast<size_t>(style.outcome)] = true;
      row.parts.push_back({style.css,
                           absl::StrFormat("%s: %d of %d, %.3g %%", LoadOutcomeName(style.outcome), count, all,
                                           100.0 * static_cast<double>(count) / static_cast<double>(all)),
                           static_cast<double>(count) / static_cast<double>(all)});
    }
    bars.rows.push_back(std::move(row));
  }
  std::string legend = "<p class=\"legend\">";
  for (const OutcomeStyle& style : kOutcomes) {
    if (!seen[static_cast<size_t>(style.outcome)]) continue;
    absl::StrAppend(&legend,
                    "<span><svg class=\"key\" viewBox=\"0 0 14 14\" width=\"14\" height=\"14\" aria-hidden=\"true\">",
                    "<rect class=\"", style.css, "\" width=\"14\" height=\"14\"/></svg> ",
                    LoadOutcomeName(style.outcome), "</span>");
  }
  absl::StrAppend(&legend, "</p>");
  // A picture per label; the rows of a single one in three, side by side where there is room.
  std::vector<StackedBars> parts;
  const size_t each = points.labels.size() > 1 ? bars.rows.size() : std::max<size_t>(1, (bars.rows.size() + 2) / 3);
  for (size_t i = 0; i < bars.rows.size(); ++i) {
    const bool fresh = i == 0 || parts.back().rows.size() >= each || points.points[i].line != points.points[i - 1].line;
    if (fresh) parts.push_back({.description = bars.description});
    parts.back().rows.push_back(bars.rows[i]);
  }
  std::vector<std::string> pictures;
  for (const StackedBars& part : parts) pictures.push_back(DrawStackedBars(part));
  return legend + FigureHtml(PictureGrid(pictures), "All requests of all seeds.");
}

std::string DistributionFigures(const LoadPoints& points) {
  const auto one = [](std::optional<double> RequestFigures::*field) {
    return [field](const RequestRecord& record, std::vector<double>* values) {
      const RequestFigures f = FiguresOfRequest(record);
      if ((f.*field).has_value()) values->push_back(*(f.*field));
    };
  };
  const auto gaps = [](const RequestRecord& record, std::vector<double>* values) {
    if (record.outcome != LoadOutcome::kOk && record.outcome != LoadOutcome::kCancelled) return;
    const std::vector<double> of = GapsOf(record);
    values->insert(values->end(), of.begin(), of.end());
  };
  const auto lag = [](const RequestRecord& record, std::vector<double>* values) {
    values->push_back(FiguresOfRequest(record).send_lag);
  };
  return FigureHtml(
      PictureGrid({Cdf(points, "TTFT", false, one(&RequestFigures::ttft)), Cdf(points, "ITL", true, gaps),
                   Cdf(points, "E2EL", false, one(&RequestFigures::e2el)),
                   Cdf(points, "TPOT", false, one(&RequestFigures::tpot)),
                   Cdf(points, "Largest gap", false, one(&RequestFigures::largest_gap)),
                   Cdf(points, "Send lag", true, lag)}),
      absl::StrCat("Share of requests (of gaps, for ITL) at or below a time, all seeds, at ",
                   points.AtText(points.shown_at), ". The send lag is the lateness of the load generator itself."));
}

}  // namespace interlace
