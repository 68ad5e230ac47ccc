// The search for a reserve as a page.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/serve/load_page_charts.h"
#include "bench/serve/page_parts.h"
#include "bench/serve/svg_chart.h"
#include "bench/study/reserve_study.h"

namespace interlace {
namespace {

struct ReservePicture {
  const char* title;
  double ReserveFigures::*field;
  double unit;
};
constexpr ReservePicture kPictures[] = {
    {"Output tokens/s", &ReserveFigures::output_throughput, 1},
    {"Input traffic, MB from the host", &ReserveFigures::traffic_in, 1e6},
    {"Swap operations", &ReserveFigures::swaps, 1},
    {"Blocks swapped out", &ReserveFigures::blocks_out, 1},
};

std::string Draw(const ReserveResult& result, const std::vector<ReservePoint>& search, const ReserveSearch& asked,
                 const ReservePicture& picture) {
  LineChart chart = {.title = picture.title, .description = "over the factor"};
  chart.x = {.title = absl::StrCat("factor of ", asked.rule), .low = asked.from, .high = search.back().factor};
  chart.width = 480;
  ChartLine line = {.label = asked.rule, .colour = asked.rule == "cap" ? 1 : 0};
  double least = 1e300, most = 0;
  const auto see = [&](const Interval& interval) {
    least = std::min(least, interval.low / picture.unit);
    most = std::max(most, interval.high / picture.unit);
  };
  for (const ReservePoint& point : search) {
    const Interval interval = OverSeeds(point, picture.field);
    see(interval);
    ChartPoint drawn = {.x = point.factor, .y = interval.mean / picture.unit};
    if (point.seeds.size() > 1) {
      drawn.low = std::max(0.0, interval.low / picture.unit);
      drawn.high = interval.high / picture.unit;
    }
    drawn.title = absl::StrCat(point.rule, ": ", ShortNumber(drawn.y));
    line.points.push_back(std::move(drawn));
  }
  chart.lines.push_back(std::move(line));
  for (const ReservePoint& point : result.plain) {
    const Interval interval = OverSeeds(point, picture.field);
    see(interval);
    chart.rules.push_back({interval.mean / picture.unit, point.rule, true});
  }
  // Near each other and far from 0, what differs would not be seen on an axis from 0.
  if (least < 0.7 * most) chart.y.low = 0;
  return DrawLineChart(chart);
}

const char* Meaning(absl::string_view rule) {
  return rule == "share" ? "Search 1: for each 16 requests that run, so many blocks as the factor says stay free when "
                           "another one starts (at most an eighth of the device)."
                         : "Search 2: another one starts only while the device holds more blocks for each request that "
                           "runs than the factor says.";
}

}  // namespace

std::string ReservePage(const ReserveResult& result, const std::vector<std::pair<std::string, std::string>>& facts) {
  const char* const title = "Memory held back when a request starts";
  std::string body = absl::StrCat(PageHeader(title, facts), "<main>\n");
  for (size_t s = 0; s < result.searches.size(); ++s) {
    const ReserveSearch& asked = result.options.searches[s];
    const std::vector<ReservePoint>& search = result.searches[s];
    std::vector<std::string> pictures;
    for (const ReservePicture& picture : kPictures) pictures.push_back(Draw(result, search, asked, picture));
    std::string lead = absl::StrCat("<p class=\"note\">", EscapeXml(Meaning(asked.rule)), "</p>");
    if (result.options.seeds > 1) {
      absl::StrAppendFormat(&lead,
                            "<p class=\"note\">Of %d factors %d have another output throughput than none, seed by seed "
                            "(95 %% interval of the ratio); one in twenty is by chance.</p>",
                            search.size(), FactorsThatDiffer(result, search));
    }
    absl::StrAppend(&body, PageSection(asked.rule, absl::StrCat("sched.reserve = ", asked.rule, ":factor"),
                                       lead + FigureHtml(PictureGrid({pictures[0], pictures[1]}) +
                                                             PictureGrid({pictures[2], pictures[3]}),
                                                         "Marks: mean of the seeds; bars: its 95 % interval. Dotted: "
                                                         "no reserve, and the quantile.")));
  }
  absl::StrAppend(
      &body,
      PageSection(
          "figures", "All figures",
          absl::StrCat(
              PageTable(ReserveTable(result, 1)),
              "<p class=\"note\">Swap operations: requests parked, and parked ones that ran again. "
              "Blocks out: of all layers, copied to the host before their request had ended. MB in: from host to "
              "device.</p>")));
  return PageShell(title, body + "</main>\n");
}

}  // namespace interlace
