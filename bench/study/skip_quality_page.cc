// Quality against cost, as sections of the page: a line for each way, and the Pareto front over all of them.
#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_page_charts.h"
#include "bench/serve/page_parts.h"
#include "bench/serve/svg_chart.h"
#include "bench/study/skip_quality.h"

namespace interlace {
namespace {

constexpr double kLeastKl = 1e-6;  // below it a logarithmic axis shows nothing

// A point of a picture: what a way costs and gives.
struct Spot {
  double cost = 0, value = 0;
  std::optional<Interval> interval;
  std::string title;
};

struct Measure {
  std::string title;  // of the picture
  ChartAxis y;
  bool more_is_better = false;
  std::optional<double> whole;  // what the whole model has, at a cost of 1
  std::vector<ChartRule> rules;
  std::function<std::optional<Spot>(const QualityRow&, bool bytes)> spot;  // none: not measured
};

std::string NameOf(const QualityRow& row, int32_t layers) {
  return absl::StrCat(row.method, ", ", SettingText(row.method, row.setting, layers));
}

// The front's corners by cost; between two of them it is as bad as the cheaper one.
ChartLine FrontLine(std::vector<std::pair<double, double>> corners) {
  ChartLine line = {.label = "front", .colour = WayColour(0), .marks = false};
  line.dashed = true;
  line.steps = true;
  std::sort(corners.begin(), corners.end());
  for (const auto& [cost, value] : corners) line.points.push_back({.x = cost, .y = value});
  return line;
}

std::string Picture(const std::vector<QualityRow>& rows, const Measure& measure, bool bytes, int32_t layers) {
  LineChart chart = {.title = measure.title,
                     .description = absl::StrCat("against ", bytes ? "bytes" : "operations", " of a token"),
                     .width = 480,
                     .height = 280};
  chart.x = {.title = bytes ? "bytes of a token, whole model = 100 %" : "FLOPs of a token, whole model = 100 %",
             .percent = true};
  chart.y = measure.y;
  chart.rules = measure.rules;
  std::vector<std::pair<double, double>> points;  // cost and loss
  std::vector<std::optional<Spot>> spots;
  for (const QualityRow& row : rows) {
    spots.push_back(measure.spot(row, bytes));
    if (spots.back()) points.emplace_back(spots.back()->cost, (measure.more_is_better ? -1 : 1) * spots.back()->value);
  }
  if (measure.whole) points.emplace_back(1, (measure.more_is_better ? -1 : 1) * *measure.whole);
  const std::vector<bool> front = ParetoFront(points);
  std::vector<std::pair<double, double>> corners;
  for (size_t i = 0; i < points.size(); ++i) {
    if (front[i]) corners.emplace_back(points[i].first, std::abs(points[i].second));
  }
  chart.lines.push_back(FrontLine(std::move(corners)));
  for (size_t way = 0, point = 0, row = 0; way < std::size(kSkipWays); ++way) {
    ChartLine line = {.label = kSkipWays[way], .colour = WayColour(way)};
    for (; row < rows.size() && rows[row].method == kSkipWays[way]; ++row) {
      if (!spots[row]) continue;
      const Spot& spot = *spots[row];
      ChartPoint mark = {.x = spot.cost, .y = spot.value, .hollow = !front[point++]};
      if (spot.interval) {
        mark.low = spot.interval->low;
        mark.high = spot.interval->high;
      }
      mark.title = absl::StrFormat("%s: %.1f %%, %s", NameOf(rows[row], layers), 100 * spot.cost, spot.title);
      line.points.push_back(std::move(mark));
    }
    if (!line.points.empty()) chart.lines.push_back(std::move(line));
  }
  return DrawLineChart(chart);
}

// Both costs, side by side.
std::string Pictures(const std::vector<QualityRow>& rows, const Measure& measure, int32_t layers) {
  return PictureGrid({Picture(rows, measure, false, layers), Picture(rows, measure, true, layers)});
}

Measure OfTexts(const std::string& title, const ChartAxis& y, bool more_is_better, std::optional<double> whole,
                const std::function<double(const QualityRow&)>& value) {
  Measure measure = {.title = title, .y = y, .more_is_better = more_is_better, .whole = whole};
  measure.spot = [value](const QualityRow& row, bool bytes) -> std::optional<Spot> {
    if (row.texts == 0) return std::nullopt;
    return Spot{bytes ? row.bytes : row.flops, value(row), std::nullopt, absl::StrFormat("%.4g", value(row))};
  };
  return measure;
}

Measure OfTest(const SkipQuality& quality, const SkipTest& test) {
  Measure measure = {.title = absl::StrCat("Right answers, ", test.name),
                     .y = {.title = "right", .percent = true, .low = 0},
                     .more_is_better = true};
  if (const auto whole = WholeTest(quality, test.name)) {
    measure.whole = whole->share.mean;
    measure.rules.push_back({whole->share.mean, "whole model", true});
  }
  if (test.chance > 0) measure.rules.push_back({test.chance, "guessing", true});
  measure.spot = [name = test.name](const QualityRow& row, bool bytes) -> std::optional<Spot> {
    for (const TestRow& of_test : row.tests) {
      if (of_test.test != name) continue;
      return Spot{bytes ? of_test.bytes : of_test.flops, of_test.share.mean, of_test.share,
                  absl::StrFormat("%d of %d", of_test.right, of_test.items)};
    }
    return std::nullopt;
  };
  return measure;
}

std::string Legend() {
  std::string out = "<p class=\"legend\">";
  for (size_t way = 0; way < std::size(kSkipWays); ++way) {
    absl::StrAppend(&out, "<span>", LegendMark(WayColour(way)), " ", kSkipWays[way], "</span>");
  }
  return out + "</p>\n";
}

}  // namespace

std::string QualitySections(const SkipQuality& quality, int32_t layers) {
  const std::vector<QualityRow> rows = QualityRows(quality);
  const std::string caption =
      "Filled marks and the dashed line: the Pareto front, where no other way costs less and is better; the whole "
      "model is part of it at 100 %. Open marks: the others. ";
  std::string out;
  if (!quality.samples.empty()) {
    const double perplexity = WholePerplexity(quality);
    Measure of_perplexity = OfTexts("Perplexity", {.title = "perplexity", .log = true}, false, perplexity,
                                    [](const QualityRow& row) { return row.perplexity; });
    of_perplexity.rules.push_back({perplexity, "whole model", true});
    const Measure kl = OfTexts("KL to the whole model", {.title = "KL, nats", .log = true}, false, std::nullopt,
                               [](const QualityRow& row) { return std::max(kLeastKl, row.kl); });
    const Measure agreement = OfTexts("Same first choice", {.title = "positions", .percent = true, .low = 0, .high = 1},
                                      true, 1, [](const QualityRow& row) { return row.agreement.mean; });
    int32_t decoded = 0;
    for (const QualityRow& row : rows) decoded = std::max(decoded, row.decoded);
    const Measure same = OfTexts("Greedy tokens before the first other one", {.title = "tokens, median", .low = 0},
                                 true, decoded, [](const QualityRow& row) { return row.same; });
    std::string pictures;
    for (const Measure* measure : std::initializer_list<const Measure*>{&of_perplexity, &kl, &agreement, &same}) {
      pictures += Pictures(rows, *measure, layers);
    }
    absl::StrAppend(
        &out,
        PageSection("quality", "What running without them costs, and what it saves",
                    absl::StrCat(Legend(),
                                 FigureHtml(pictures, caption + "Texts that no plan but `own` was made from; first "
                                                                "halves computed wholly."),
                                 PageTable(QualityTable(quality, layers)),
                                 "<p class=\"note\">A star behind a cost: on the front of it and of the same first "
                                 "choice.</p>")));
  }
  if (!quality.tests.empty()) {
    std::string pictures, notes;
    for (const SkipTest& test : quality.tests) {
      pictures += Pictures(rows, OfTest(quality, test), layers);
      absl::StrAppend(&notes, "<p class=\"note\">", EscapeXml(test.name), ": ", EscapeXml(test.what), "</p>");
    }
    absl::StrAppend(
        &out,
        PageSection("accuracy", "Right answers",
                    absl::StrCat(Legend(), FigureHtml(pictures, caption + "Bars: Wilson's 95 % interval."), notes,
                                 PageTable(AccuracyTable(quality, layers)),
                                 "<p class=\"note\">Gained: items that this way alone answers right; lost: that the "
                                 "whole model alone does; p: the chance of so uneven a split (McNemar).</p>")));
  }
  return out;
}

}  // namespace interlace
