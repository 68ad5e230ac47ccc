// The pictures of the load page that show single requests and gaps over the time of a run.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_page_charts.h"
#include "bench/serve/svg_chart.h"

namespace interlace {
namespace {

constexpr int kWide = 1100, kNarrow = 360;
constexpr size_t kMostRequests = 50;
constexpr double kLeastGap = 1e-5;  // seconds; gaps below share the lowest row
constexpr double kStall = 4;        // times the median gap: drawn as a hole in a stream

double Seconds(absl::Duration d) { return absl::ToDoubleSeconds(d); }

// A picture for screens with room and another for a phone; CSS shows one of them.
template <typename Draw>
std::string TwoWidths(const Draw& draw) {
  return absl::StrCat("<div class=\"wide\">", draw(kWide), "</div><div class=\"narrow\">", draw(kNarrow), "</div>");
}

bool Streamed(const RequestRecord& r) { return r.outcome == LoadOutcome::kOk || r.outcome == LoadOutcome::kCancelled; }

std::string DrawGaps(const LoadRun& run, const std::string& title, int colour, int width) {
  double end = 0, low = 1e300, high = 0;
  for (const RequestRecord& r : run.records) {
    if (!Streamed(r)) continue;
    for (const double gap : GapsOf(r)) {
      low = std::min(low, std::max(gap, kLeastGap));
      high = std::max(high, gap);
    }
    if (!r.chunks.empty()) end = std::max(end, Seconds(r.chunks.back()));
  }
  HeatMap map;
  map.title = title;
  map.description = "counts of gaps by time and length";
  map.width = width;
  map.height = 250;
  map.colour = colour;
  if (high <= 0) return DrawHeatMap(map);
  high = std::max(high, 1.5 * low) * 1.05;
  map.x = {.title = "time since the run began", .seconds = true, .low = 0, .high = end};
  map.y = {.log = true, .seconds = true, .low = low, .high = high};
  const size_t columns = width > 600 ? 120 : 50, rows = 26;
  map.counts.assign(rows, std::vector<int64_t>(columns, 0));
  const auto cell = [](double share, size_t cells) {
    return static_cast<size_t>(std::clamp(share * static_cast<double>(cells), 0.0, static_cast<double>(cells - 1)));
  };
  for (const RequestRecord& r : run.records) {
    if (!Streamed(r)) continue;
    for (size_t i = 1; i < r.chunks.size(); ++i) {
      const double gap = std::max(Seconds(r.chunks[i] - r.chunks[i - 1]), low);
      ++map.counts[cell(std::log(gap / low) / std::log(high / low), rows)][cell(Seconds(r.chunks[i]) / end, columns)];
    }
  }
  return DrawHeatMap(map);
}

// Up to 50 requests that follow each other, about the one with the largest gap, or without gaps the slowest first
// token.
std::vector<const RequestRecord*> Sample(const LoadRun& run) {
  size_t worst = 0;
  std::pair<double, double> most = {-1, -1};
  for (size_t i = 0; i < run.records.size(); ++i) {
    const RequestFigures f = FiguresOfRequest(run.records[i]);
    const std::pair<double, double> here = {f.largest_gap.value_or(0), f.ttft.value_or(0)};
    if (here > most) {
      most = here;
      worst = i;
    }
  }
  const size_t count = std::min(kMostRequests, run.records.size());
  const size_t begin = std::min(worst - std::min(worst, count / 2), run.records.size() - count);
  std::vector<const RequestRecord*> sample;
  for (size_t i = begin; i < begin + count; ++i) sample.push_back(&run.records[i]);
  return sample;
}

std::string TitleOf(const RequestRecord& r) {
  const RequestFigures f = FiguresOfRequest(r);
  std::string out =
      absl::StrCat("request ", r.index, ", ", LoadOutcomeName(r.outcome), ": due ", ShortSeconds(Seconds(r.due)));
  if (f.send_lag > 0) absl::StrAppend(&out, ", sent ", ShortSeconds(f.send_lag), " later");
  if (f.ttft.has_value()) absl::StrAppend(&out, ", TTFT ", ShortSeconds(*f.ttft));
  absl::StrAppend(&out, ", ", r.prompt_tokens, " prompt and ", f.output_tokens, " output tokens");
  if (f.largest_gap.has_value()) absl::StrAppend(&out, ", largest gap ", ShortSeconds(*f.largest_gap));
  if (!r.error.empty()) absl::StrAppend(&out, ", ", r.error);
  return out;
}

// One row: waiting, streaming with its holes and, if `ticks`, each delivery, and how it ended.
std::string DrawRequest(const RequestRecord& r, const PlotArea& area, double y, double hole, bool ticks) {
  constexpr double kHeight = 6;
  const auto x = [&](absl::Duration at) { return area.X(Seconds(at)); };
  const auto box = [&](const char* css, double from, double to) {
    return absl::StrCat("<rect class=\"", css, "\" x=\"", Coordinate(from), "\" y=\"", Coordinate(y - kHeight / 2),
                        "\" width=\"", Coordinate(std::max(to - from, 0.5)), "\" height=\"", Coordinate(kHeight),
                        "\"/>");
  };
  const auto stroke = [&](const char* css, double from, double to) {
    return absl::StrCat("<path class=\"", css, "\" d=\"M", Coordinate(from), " ", Coordinate(y), "H", Coordinate(to),
                        "\"/>");
  };
  std::string out = absl::StrCat("<g><title>", EscapeXml(TitleOf(r)), "</title>");
  if (r.sent > r.due) absl::StrAppend(&out, stroke("w-lag", x(r.due), x(r.sent)));
  const absl::Duration first = r.chunks.empty() ? std::max(r.sent, r.ended) : r.chunks.front();
  absl::StrAppend(&out, box("w-wait", x(r.sent), x(first)));
  size_t begin = 0;
  for (size_t i = 1; i <= r.chunks.size(); ++i) {
    if (i < r.chunks.size() && Seconds(r.chunks[i] - r.chunks[i - 1]) <= hole) continue;
    absl::StrAppend(&out, box("w-stream", x(r.chunks[begin]), x(r.chunks[i - 1])));
    if (i < r.chunks.size()) absl::StrAppend(&out, stroke("w-hole", x(r.chunks[i - 1]), x(r.chunks[i])));
    begin = i;
  }
  if (ticks && r.chunks.size() > 1) {
    std::string marks;
    for (const absl::Duration at : r.chunks) {
      absl::StrAppend(&marks, "M", Coordinate(x(at)), " ", Coordinate(y - kHeight / 2), "v", Coordinate(kHeight));
    }
    absl::StrAppend(&out, "<path class=\"w-tick\" d=\"", marks, "\"/>");
  }
  if (r.outcome != LoadOutcome::kOk) {
    const double end = x(std::max(r.ended, r.chunks.empty() ? r.sent : r.chunks.back()));
    const char* css = r.outcome == LoadOutcome::kShed        ? "w-shed"
                      : r.outcome == LoadOutcome::kCancelled ? "w-left"
                                                             : "w-failed";
    absl::StrAppend(&out, "<path class=\"", css, "\" d=\"M", Coordinate(end - 3), " ", Coordinate(y - 3),
                    "l6 6m0 -6l-6 6\"/>");
  }
  return out + "</g>";
}

std::string DrawWaterfall(const LoadRun& run, const std::string& title, int colour, int width) {
  const std::vector<const RequestRecord*> sample = Sample(run);
  const int top = title.empty() ? 6 : PlotArea::kTitleHeight;
  const int height = top + 38 + 10 * static_cast<int>(sample.size());
  if (sample.empty()) return SvgPicture(width, 90, title, "no requests", "");
  double low = 1e300, high = 0;
  std::vector<double> gaps;
  for (const RequestRecord* r : sample) {
    low = std::min({low, Seconds(r->due), Seconds(r->sent)});
    high = std::max({high, Seconds(r->ended), Seconds(r->sent)});
    if (!r->chunks.empty()) high = std::max(high, Seconds(r->chunks.back()));
    const std::vector<double> of = GapsOf(*r);
    gaps.insert(gaps.end(), of.begin(), of.end());
  }
  if (!(high > low)) high = low + 1e-3;
  const double gap = gaps.empty() ? 0 : std::max(DistributionOf(std::move(gaps)).p50, 1e-6);
  const double hole = gap > 0 ? kStall * gap : 1e300;
  ChartAxis x = {.title = "time since the run began", .seconds = true, .low = low, .high = high};
  ChartAxis y = {.bare = true, .low = 0, .high = static_cast<double>(sample.size())};
  const PlotArea area(width, height, 10, x, y, low, high, 0, static_cast<double>(sample.size()), top);
  // Deliveries are drawn where they lie far enough apart to be told.
  const bool ticks = area.X(low + gap) - area.X(low) > 4;
  std::string rows;
  for (size_t i = 0; i < sample.size(); ++i) {
    const double middle =
        area.top() + (static_cast<double>(i) + 0.5) * (area.bottom() - area.top()) / static_cast<double>(sample.size());
    absl::StrAppend(&rows, DrawRequest(*sample[i], area, middle, hole, ticks));
  }
  return SvgPicture(width, height, title, absl::StrCat("timelines of ", sample.size(), " requests"),
                    absl::StrCat(area.Frame(), "<g class=\"c", colour % kChartColours, "\">", rows, "</g>"));
}

std::string Heading(const LoadPoints& points, const LoadPoint& point) {
  const std::string at = absl::StrCat(points.AtText(point.at), ", seed ", point.runs[0]->seed);
  return points.labels.size() > 1 ? absl::StrCat(points.labels[point.line], ", ", at) : at;
}

// What the bars and marks of a waterfall mean.
std::string WaterfallLegend() {
  const auto item = [](int width, const std::string& mark, const char* text) {
    return absl::StrFormat(
        "<span><svg class=\"key\" viewBox=\"0 0 %d 14\" width=\"%d\" height=\"14\" aria-hidden=\"true\"><g "
        "class=\"c0\">%s</g></svg> %s</span>",
        width, width, mark, text);
  };
  const auto bar = [](const char* css) {
    return absl::StrCat("<rect class=\"", css, "\" y=\"4\" width=\"26\" height=\"6\"/>");
  };
  const auto cross = [](const char* css) {
    return absl::StrCat("<path class=\"", css, "\" d=\"M3 3l8 8m0 -8l-8 8\"/>");
  };
  return absl::StrCat("<p class=\"legend\">", item(26, bar("w-wait"), "sent to first token"),
                      item(26, bar("w-stream"), "tokens"),
                      item(26, "<path class=\"w-hole\" d=\"M0 7H26\"/>", "gap; before a bar: due to sent"),
                      item(14, cross("w-shed"), "shed"), item(14, cross("w-failed"), "failed"),
                      item(14, cross("w-left"), "cancelled by the client"), "</p>\n");
}

}  // namespace

std::string GapFigures(const LoadPoints& points) {
  std::string out;
  for (size_t line = 0; line < points.labels.size(); ++line) {
    const LoadPoint& point = points.Shown(line);
    out += TwoWidths([&](int width) {
      return DrawGaps(*point.runs[0], absl::StrCat("ITL, ", Heading(points, point)), static_cast<int>(line), width);
    });
  }
  return FigureHtml(
      out,
      "Each cell counts the gaps of one length that ended in one stretch of time; a stronger colour is more, on a "
      "logarithmic scale. Gaps below 10 us stand in the lowest row. A stall of the whole server is a column with cells "
      "far above the rest.");
}

std::string WaterfallFigures(const LoadPoints& points) {
  std::string out = WaterfallLegend();
  for (size_t line = 0; line < points.labels.size(); ++line) {
    const LoadPoint& point = points.Shown(line);
    absl::StrAppend(&out, "<details", line == 0 ? " open=\"open\"" : "", "><summary>",
                    EscapeXml(Heading(points, point)), "</summary>", TwoWidths([&](int width) {
                      return DrawWaterfall(*point.runs[0], "", static_cast<int>(line), width);
                    }),
                    "</details>");
  }
  return FigureHtml(out,
                    absl::StrFormat("Up to %d requests in the order of their due times, about the one with the largest "
                                    "gap. A gap is drawn where it is more than %.0f times the median of those shown.",
                                    kMostRequests, kStall));
}

}  // namespace interlace
