#include "bench/serve/svg_chart.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/check.h"

namespace interlace {
namespace {

constexpr double kCharWidth = 6.9;  // of 12-unit text, on the generous side
constexpr int kShapes = 5;

double TextWidth(absl::string_view text) {
  size_t points = 0;
  for (const char c : text) points += (static_cast<unsigned char>(c) & 0xc0) != 0x80 ? 1 : 0;
  return kCharWidth * static_cast<double>(points);
}

std::string ColourClass(int colour) { return absl::StrCat("c", colour % kChartColours); }

// The mark number `shape` about (x, y).
std::string Mark(int shape, double x, double y, bool hollow, absl::string_view title) {
  const char* css = hollow ? "hollow" : "mark";
  const std::string tip = title.empty() ? "" : absl::StrCat("<title>", EscapeXml(title), "</title>");
  const auto path = [&](std::initializer_list<std::pair<double, double>> corners) {
    std::string d;
    for (const auto& [dx, dy] : corners) {
      absl::StrAppend(&d, d.empty() ? "M" : "L", Coordinate(x + dx), " ", Coordinate(y + dy));
    }
    return absl::StrCat("<path class=\"", css, "\" d=\"", d, "Z\">", tip, "</path>");
  };
  switch (shape % kShapes) {
    case 0:
      return absl::StrCat("<circle class=\"", css, "\" cx=\"", Coordinate(x), "\" cy=\"", Coordinate(y),
                          "\" r=\"3.5\">", tip, "</circle>");
    case 1:
      return path({{-3, -3}, {3, -3}, {3, 3}, {-3, 3}});
    case 2:
      return path({{0, -4}, {4, 3}, {-4, 3}});
    case 3:
      return path({{0, -4.5}, {4.5, 0}, {0, 4.5}, {-4.5, 0}});
    default:
      return path({{0, 4}, {4, -3}, {-4, -3}});
  }
}

std::string Text(double x, double y, absl::string_view css, absl::string_view anchor, absl::string_view text) {
  return absl::StrCat("<text class=\"", css, "\" x=\"", Coordinate(x), "\" y=\"", Coordinate(y), "\" text-anchor=\"",
                      anchor, "\">", EscapeXml(text), "</text>");
}

std::string Straight(absl::string_view css, double x1, double y1, double x2, double y2) {
  return absl::StrCat("<path class=\"", css, "\" d=\"M", Coordinate(x1), " ", Coordinate(y1), "L", Coordinate(x2), " ",
                      Coordinate(y2), "\"/>");
}

std::string TickText(const ChartAxis& axis, double value) {
  if (axis.seconds) return ShortSeconds(value);
  if (axis.percent) return absl::StrCat(ShortNumber(100 * value), " %");
  return ShortNumber(value);
}

// No axis goes further: marks beyond have no short names, and their powers of ten overflow.
constexpr double kFurthest = 1e15;

bool Drawable(double value, bool log) { return std::abs(value) < kFurthest && (!log || value > 1 / kFurthest); }

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void Add(double value, bool log) {
    if (!Drawable(value, log)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

// Names at the right ends of lines, moved apart where they would overlap.
std::string DirectLabels(const LineChart& chart, const PlotArea& area) {
  struct Label {
    double y, end;
    const ChartLine* line;
  };
  std::vector<Label> labels;
  for (const ChartLine& line : chart.lines) {
    for (auto point = line.points.rbegin(); point != line.points.rend(); ++point) {
      if (!area.Holds(point->x, point->y)) continue;
      labels.push_back({area.Y(point->y), area.X(point->x), &line});
      break;
    }
  }
  std::sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) { return a.y < b.y; });
  constexpr double kApart = 13;
  for (size_t i = 1; i < labels.size(); ++i) labels[i].y = std::max(labels[i].y, labels[i - 1].y + kApart);
  double most = area.bottom();
  for (size_t i = labels.size(); i-- > 0; most -= kApart) labels[i].y = std::min(labels[i].y, most);
  std::string out;
  for (const Label& label : labels) {
    absl::StrAppend(&out, "<g class=\"", ColourClass(label.line->colour), "\">",
                    Text(area.right() + 8, label.y + 4, "direct", "start", label.line->label), "</g>");
  }
  return out;
}

std::string DrawLine(const ChartLine& line, const PlotArea& area) {
  std::string d, marks;
  double before = 0;
  for (const ChartPoint& point : line.points) {
    if (!area.Holds(point.x, point.y)) continue;
    const double x = area.X(point.x), y = area.Y(point.y);
    if (d.empty()) {
      d = absl::StrCat("M", Coordinate(x), " ", Coordinate(y));
    } else {
      if (line.steps) absl::StrAppend(&d, "L", Coordinate(x), " ", Coordinate(before));
      absl::StrAppend(&d, "L", Coordinate(x), " ", Coordinate(y));
    }
    before = y;
    if (point.low.has_value() && point.high.has_value() && area.Holds(point.x, *point.low) &&
        area.Holds(point.x, *point.high)) {
      absl::StrAppend(&marks, Straight("bar", x, area.Y(*point.low), x, area.Y(*point.high)));
    }
    if (line.marks) absl::StrAppend(&marks, Mark(line.colour, x, y, point.hollow, point.title));
  }
  if (d.empty()) return "";
  return absl::StrCat("<g class=\"", ColourClass(line.colour), "\"><path class=\"line", line.dashed ? " dashed" : "",
                      "\" d=\"", d, "\"/>", marks, "</g>");
}

std::string DrawRule(const ChartRule& rule, const LineChart& chart, const PlotArea& area) {
  if (rule.level ? !Drawable(rule.at, chart.y.log) : !Drawable(rule.at, chart.x.log)) return "";
  if (rule.level) {
    const double y = area.Y(rule.at);
    if (y < area.top() || y > area.bottom()) return "";
    const bool below = y - area.top() < 14;  // there the title is
    return absl::StrCat(Straight("rule", area.left(), y, area.right(), y),
                        Text(area.left() + 4, y + (below ? 12 : -4), "note", "start", rule.label));
  }
  const double x = area.X(rule.at);
  if (x < area.left() || x > area.right()) return "";
  const bool to_left = x + 4 + TextWidth(rule.label) > area.right();
  return absl::StrCat(Straight("rule", x, area.top(), x, area.bottom()),
                      Text(x + (to_left ? -2 : 2), area.top() - 3, "note", to_left ? "end" : "start", rule.label));
}

}  // namespace

std::string Coordinate(double value) {
  CHECK_MSG(std::isfinite(value), "a coordinate that is no number");
  std::string text = absl::StrFormat("%.1f", value);
  if (text.size() > 2 && text.compare(text.size() - 2, 2, ".0") == 0) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

Ticks NiceTicks(double low, double high, int about, bool log) {
  Ticks ticks;
  // Equal but for rounding: there is no step between them.
  const bool one = !(high - low > 1e-9 * std::max(std::abs(low), std::abs(high)));
  if (log) {
    if (one) {
      low /= 1.5;
      high *= 1.5;
    }
    const double decades = std::log10(high / low);
    std::vector<double> mantissas = {1};
    if (decades <= 3) mantissas = {1, 2, 5};
    const int stride = decades > about ? static_cast<int>(std::ceil(decades / about)) : 1;
    std::vector<double> candidates;
    const int from = static_cast<int>(std::floor(std::log10(low))) - stride;
    const int to = static_cast<int>(std::ceil(std::log10(high))) + stride;
    for (int e = from; e <= to; ++e) {
      if (stride > 1 && ((e % stride) + stride) % stride != 0) continue;
      for (const double m : mantissas) candidates.push_back(m * std::pow(10, e));
    }
    // From the last candidate at or below the data to the first at or above it.
    size_t begin = 0, end = candidates.size() - 1;
    while (begin + 1 < candidates.size() && candidates[begin + 1] <= low * (1 + 1e-9)) ++begin;
    while (end > 0 && candidates[end - 1] >= high * (1 - 1e-9)) --end;
    ticks.at.assign(candidates.begin() + static_cast<std::ptrdiff_t>(begin),
                    candidates.begin() + static_cast<std::ptrdiff_t>(end) + 1);
  } else {
    if (one) {
      const double half = low == 0 ? 0.5 : std::abs(low) / 2;
      low -= half;
      high += half;
    }
    const double rough = (high - low) / about;
    const double power = std::pow(10, std::floor(std::log10(rough)));
    double step = 10 * power;
    for (const double m : {1.0, 2.0, 5.0}) {
      if (m * power >= rough * (1 - 1e-9)) {
        step = m * power;
        break;
      }
    }
    const double first = std::floor(low / step + 1e-9), last = std::ceil(high / step - 1e-9);
    for (double i = first; i <= last; ++i) ticks.at.push_back(i * step);
  }
  ticks.low = ticks.at.front();
  ticks.high = ticks.at.back();
  return ticks;
}

PlotArea::PlotArea(int width, int height, int right_margin, const ChartAxis& x, const ChartAxis& y, double x_low,
                   double x_high, double y_low, double y_high, int top)
    : x_(x), y_(y) {
  const auto ticks = [](const ChartAxis& axis, double low, double high, int about) {
    Ticks t = NiceTicks(axis.low.value_or(low), axis.high.value_or(high), about, axis.log);
    // An end that was asked for is the end; marks beyond it go.
    if (axis.low.has_value()) t.low = *axis.low;
    if (axis.high.has_value()) t.high = *axis.high;
    t.at.erase(
        std::remove_if(t.at.begin(), t.at.end(),
                       [&](double v) { return v < t.low - 1e-12 * std::abs(t.low) || v > t.high * (1 + 1e-12); }),
        t.at.end());
    return t;
  };
  y_ticks_ = ticks(y, y_low, y_high, std::max(2, height / 45));
  double widest = 0;
  for (const double at : y_ticks_.at) widest = std::max(widest, TextWidth(TickText(y_, at)));
  left_ = y.bare ? 4 : std::ceil(widest) + 8;
  width_ = width;
  right_ = width - right_margin;
  top_ = top;
  bottom_ = height - (x.title.empty() ? 22 : 38);
  x_ticks_ = ticks(x, x_low, x_high, std::max(2, static_cast<int>((right_ - left_) / 60)));
}

double PlotArea::X(double value) const {
  const double at = x_.log ? std::log(value / x_ticks_.low) / std::log(x_ticks_.high / x_ticks_.low)
                           : (value - x_ticks_.low) / (x_ticks_.high - x_ticks_.low);
  return left_ + at * (right_ - left_);
}

double PlotArea::Y(double value) const {
  const double at = y_.log ? std::log(value / y_ticks_.low) / std::log(y_ticks_.high / y_ticks_.low)
                           : (value - y_ticks_.low) / (y_ticks_.high - y_ticks_.low);
  return bottom_ - at * (bottom_ - top_);
}

bool PlotArea::Holds(double x, double y) const {
  return std::isfinite(x) && std::isfinite(y) && (!x_.log || x > 0) && (!y_.log || y > 0) &&
         x >= x_ticks_.low - 1e-9 * std::abs(x_ticks_.low) && x <= x_ticks_.high * (1 + 1e-9) &&
         y >= y_ticks_.low - 1e-9 * std::abs(y_ticks_.low) && y <= y_ticks_.high * (1 + 1e-9);
}

std::string PlotArea::Frame() const {
  std::string grid, texts;
  for (const double at : y_.bare ? std::vector<double>{} : y_ticks_.at) {
    absl::StrAppend(&grid, "M", Coordinate(left_), " ", Coordinate(Y(at)), "H", Coordinate(right_));
    absl::StrAppend(&texts, Text(left_ - 6, Y(at) + 4, "tick", "end", TickText(y_, at)));
  }
  double free = -1e9;  // right end of the last text, so that none is drawn over another
  for (const double at : x_ticks_.at) {
    const std::string text = TickText(x_, at);
    absl::StrAppend(&grid, "M", Coordinate(X(at)), " ", Coordinate(bottom_), "v4");
    const double middle = std::min(X(at), width_ - TextWidth(text) / 2);
    if (middle - TextWidth(text) / 2 < free) continue;
    absl::StrAppend(&texts, Text(middle, bottom_ + 17, "tick", "middle", text));
    free = middle + TextWidth(text) / 2 + 6;
  }
  std::string out = absl::StrCat("<path class=\"grid\" d=\"", grid, "\"/>");
  absl::StrAppend(&out, Straight("axis", left_, bottom_, right_, bottom_), texts);
  if (!x_.title.empty()) {
    absl::StrAppend(&out, Text((left_ + right_) / 2, bottom_ + 33, "tick", "middle", x_.title));
  }
  return out;
}

std::string SvgPicture(int width, int height, absl::string_view title, absl::string_view description,
                       absl::string_view content) {
  return absl::StrCat("<svg class=\"chart\" viewBox=\"0 0 ", width, " ", height, "\" style=\"max-width:", width * 5 / 4,
                      "px\" role=\"img\" aria-label=\"", EscapeXml(title), ". ", EscapeXml(description), "\">",
                      title.empty() ? "" : Text(0, 14, "title", "start", title), content, "</svg>");
}

std::string DrawLineChart(const LineChart& chart) {
  Range x, y;
  for (const ChartLine& line : chart.lines) {
    for (const ChartPoint& point : line.points) {
      if (!Drawable(point.x, chart.x.log) || !Drawable(point.y, chart.y.log)) continue;
      x.Add(point.x, chart.x.log);
      y.Add(point.y, chart.y.log);
      if (point.low.has_value()) y.Add(*point.low, chart.y.log);
      if (point.high.has_value()) y.Add(*point.high, chart.y.log);
    }
  }
  if (x.empty()) {
    return SvgPicture(chart.width, chart.height, chart.title, chart.description,
                      Text(chart.width / 2.0, chart.height / 2.0, "tick", "middle", "no values"));
  }
  for (const ChartRule& rule : chart.rules) {
    if (rule.level) y.Add(rule.at, chart.y.log);
  }
  double label_width = 10;
  if (chart.direct_labels) {
    for (const ChartLine& line : chart.lines) label_width = std::max(label_width, TextWidth(line.label) + 10);
  }
  const PlotArea area(chart.width, chart.height, static_cast<int>(std::min(label_width, chart.width / 3.0)), chart.x,
                      chart.y, x.low, x.high, y.low, y.high);
  std::string content = area.Frame();
  if (chart.diagonal && !chart.x.log && !chart.y.log) {
    const double low = std::max(x.low, 0.0), high = std::min(x.high, y.high);
    if (area.Holds(low, low) && area.Holds(high, high)) {
      absl::StrAppend(&content, Straight("rule", area.X(low), area.Y(low), area.X(high), area.Y(high)));
    }
  }
  for (const ChartRule& rule : chart.rules) absl::StrAppend(&content, DrawRule(rule, chart, area));
  for (const ChartLine& line : chart.lines) absl::StrAppend(&content, DrawLine(line, area));
  if (chart.direct_labels) absl::StrAppend(&content, DirectLabels(chart, area));
  return SvgPicture(chart.width, chart.height, chart.title, chart.description, content);
}

std::string DrawHeatMap(const HeatMap& map) {
  int64_t most = 0;
  for (const auto& row : map.counts) {
    for (const int64_t count : row) most = std::max(most, count);
  }
  if (most == 0) {
    return SvgPicture(map.width, map.height, map.title, map.description,
                      Text(map.width / 2.0, map.height / 2.0, "tick", "middle", "no values"));
  }
  const double x_low = map.x.low.value_or(0), x_high = map.x.high.value_or(1);
  const double y_low = map.y.low.value_or(map.y.log ? 1e-3 : 0), y_high = map.y.high.value_or(1);
  const PlotArea area(map.width, map.height, 10, map.x, map.y, x_low, x_high, y_low, y_high);
  const auto rows = static_cast<double>(map.counts.size()), columns = static_cast<double>(map.counts[0].size());
  std::string cells;
  for (size_t r = 0; r < map.counts.size(); ++r) {
    const double top = area.bottom() - (static_cast<double>(r) + 1) / rows * (area.bottom() - area.top());
    for (size_t c = 0; c < map.counts[r].size(); ++c) {
      const int64_t count = map.counts[r][c];
      if (count == 0) continue;
      // Eight shades, by the logarithm: one event that stands alone is still seen.
      const double share = std::log1p(static_cast<double>(count)) / std::log1p(static_cast<double>(most));
      const double left = area.left() + static_cast<double>(c) / columns * (area.right() - area.left());
      absl::StrAppend(&cells, "<rect class=\"s", std::clamp(static_cast<int>(std::ceil(share * 8)), 1, 8), "\" x=\"",
                      Coordinate(left), "\" y=\"", Coordinate(top), "\" width=\"",
                      Coordinate((area.right() - area.left()) / columns + 0.1), "\" height=\"",
                      Coordinate((area.bottom() - area.top()) / rows + 0.1), "\"/>");
    }
  }
  return SvgPicture(map.width, map.height, map.title, map.description,
                    absl::StrCat(area.Frame(), "<g class=\"heat ", ColourClass(map.colour), "\">", cells, "</g>"));
}

std::string DrawStackedBars(const StackedBars& bars) {
  constexpr int kRow = 42, kTop = 8;
  const int top = bars.title.empty() ? 0 : 24;
  const int height = top + kTop + kRow * static_cast<int>(bars.rows.size());
  std::string content;
  for (size_t i = 0; i < bars.rows.size(); ++i) {
    const StackedBars::Row& row = bars.rows[i];
    const double y = top + kTop + kRow * static_cast<double>(i);
    absl::StrAppend(&content, Text(0, y + 11, "tick strong", "start", row.label),
                    Text(bars.width, y + 11, "tick", "end", row.note));
    double x = 0;
    for (const StackedBars::Part& part : row.parts) {
      if (part.share <= 0) continue;
      const double width = part.share * bars.width;
      absl::StrAppend(&content, "<rect class=\"", part.css, "\" x=\"", Coordinate(x), "\" y=\"", Coordinate(y + 17),
                      "\" width=\"", Coordinate(std::max(width, 0.6)), "\" height=\"14\"><title>",
                      EscapeXml(part.title), "</title></rect>");
      x += width;
    }
  }
  return SvgPicture(bars.width, height, bars.title, bars.description, content);
}

std::string LegendMark(int colour, bool hollow) {
  return absl::StrCat(
      "<svg class=\"key\" viewBox=\"0 0 26 14\" width=\"26\" height=\"14\" aria-hidden=\"true\"><g class=\"",
      ColourClass(colour), "\"><path class=\"line\" d=\"M1 7L25 7\"/>", Mark(colour, 13, 7, hollow, ""), "</g></svg>");
}

absl::string_view SvgChartStyle() {
  static constexpr absl::string_view kStyle = R"(
.chart{display:block;width:100%;height:auto;overflow:visible;font-family:inherit}
.chart text{font-size:12px;fill:var(--ink)}
.chart .title{font-size:13px;font-weight:600}
.chart .tick,.chart .note{fill:var(--soft)}
.chart .strong{fill:var(--ink);font-weight:600}
.chart .direct{fill:var(--k)}
.grid{stroke:var(--grid);stroke-width:1;fill:none}
.axis{stroke:var(--axis);stroke-width:1;fill:none}
.rule{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3;fill:none}
.line{stroke:var(--k);stroke-width:1.8;fill:none;stroke-linejoin:round}
.dashed{stroke-dasharray:5 3}
.bar{stroke:var(--k);stroke-width:1.2;opacity:.6;fill:none}
.mark{fill:var(--k);stroke:var(--paper);stroke-width:.8}
.hollow{fill:var(--paper);stroke:var(--k);stroke-width:1.6}
.key{vertical-align:-2px}
.heat rect{fill:var(--k)}
.s1{opacity:.24}.s2{opacity:.34}.s3{opacity:.44}.s4{opacity:.55}.s5{opacity:.66}.s6{opacity:.77}.s7{opacity:.88}
.c0{--k:var(--c0)}.c1{--k:var(--c1)}.c2{--k:var(--c2)}.c3{--k:var(--c3)}.c4{--k:var(--c4)}.c5{--k:var(--c5)}.c6{--k:var(--c6)}
)";
  return kStyle;
}

}  // namespace interlace
