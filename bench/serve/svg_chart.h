// Charts as SVG text. Colours and fonts are CSS classes (SvgChartStyle), so that one picture serves light, dark and
// paper. Pure. Coordinates are those of a view box of `width` x `height`; texts are at least 12 units high, so that a
// picture shown at its own width has legible texts.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace interlace {

// Text as it may stand in HTML and SVG, in elements and attributes. Control characters and broken UTF-8 become U+FFFD.
std::string EscapeXml(absl::string_view text);

// A number in at most four characters or so: "0.25", "12.5", "1,250", "12k".
std::string ShortNumber(double value);
// Seconds with the unit that fits: "850 us", "12.5 ms", "3.2 s".
std::string ShortSeconds(double seconds);

// Where an axis begins, ends and has its marks. Linear: steps of 1, 2 or 5 times a power of ten. Logarithmic: powers of
// ten, with 2 and 5 between them when there are few.
struct Ticks {
  double low = 0, high = 1;
  std::vector<double> at;
};
Ticks NiceTicks(double low, double high, int about, bool log);

struct ChartAxis {
  std::string title;
  bool log = false;                 // values at or below 0 are left out
  bool seconds = false;             // marks are written with the unit that fits
  bool percent = false;             // 0.5 is written 50 %
  bool bare = false;                // of y: neither grid nor marks
  std::optional<double> low, high;  // instead of what the data gives
};

struct ChartPoint {
  double x = 0, y = 0;
  std::optional<double> low, high;  // an error bar
  bool hollow = false;              // the mark is drawn open: a point beyond saturation
  std::string title;                // tooltip
};

struct ChartLine {
  std::string label;
  int colour = 0;  // index of the palette; also the shape of the marks
  bool marks = true;
  bool dashed = false;
  bool steps = false;  // a CDF
  std::vector<ChartPoint> points;
};

struct ChartRule {  // a line across the whole plot
  double at = 0;
  std::string label;
  bool level = false;  // at this y; else at this x
};

struct LineChart {
  std::string title;        // above the plot
  std::string description;  // for those who do not see it
  int width = 360, height = 240;
  ChartAxis x, y;
  std::vector<ChartLine> lines;
  std::vector<ChartRule> rules;
  bool diagonal = false;       // y = x, dotted: what was asked for
  bool direct_labels = false;  // names at the right ends of the lines
};
std::string DrawLineChart(const LineChart& chart);

// Where values lie on a picture, and the axes around them. For pictures that the functions below do not draw.
class PlotArea {
 public:
  static constexpr int kTitleHeight = 30;
  // The plot fills what the titles and the marks of the axes leave of width x height. `low` and `high` of each axis are
  // those of the axis where it has them, else of the data.
  PlotArea(int width, int height, int right_margin, const ChartAxis& x, const ChartAxis& y, double x_low, double x_high,
           double y_low, double y_high, int top = kTitleHeight);
  double X(double value) const;
  double Y(double value) const;
  double left() const { return left_; }
  double right() const { return right_; }
  double top() const { return top_; }
  double bottom() const { return bottom_; }
  bool Holds(double x, double y) const;  // on both axes, and finite
  // Grid, marks and titles of the axes.
  std::string Frame() const;

 private:
  const ChartAxis x_, y_;
  Ticks x_ticks_, y_ticks_;
  double width_ = 0, left_ = 0, right_ = 0, top_ = 0, bottom_ = 0;
};

// <svg> with its title for the eye, its description for others, and what is in it.
std::string SvgPicture(int width, int height, absl::string_view title, absl::string_view description,
                       absl::string_view content);
// A coordinate with one digit after the point.
std::string Coordinate(double value);

// Counts by cell, darker for more; rows from low y to high.
struct HeatMap {
  std::string title, description;
  int width = 360, height = 240;
  int colour = 0;
  ChartAxis x, y;                            // edges of the cells are even in x, and in y or its logarithm
  std::vector<std::vector<int64_t>> counts;  // [row][column]
};
std::string DrawHeatMap(const HeatMap& map);

// Bars of parts side by side, one row each; parts are shares of the row's total.
struct StackedBars {
  std::string title, description;
  int width = 360;
  struct Part {
    std::string css, title;
    double share = 0;
  };
  struct Row {
    std::string label, note;
    std::vector<Part> parts;
  };
  std::vector<Row> rows;
};
std::string DrawStackedBars(const StackedBars& bars);

// The rules for the classes that the pictures use, with the palette for light and dark.
absl::string_view SvgChartStyle();
// Colours of the palette; later indices begin again, with the marks still different.
inline constexpr int kChartColours = 7;
// The mark and stroke of a line, to stand in a legend.
std::string LegendMark(int colour, bool hollow = false);

}  // namespace interlace
