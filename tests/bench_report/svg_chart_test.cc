#include "bench/serve/svg_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/bench_report/xml_check.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Faults(const std::string& svg) {
  return XmlCheck::Faults(absl::StrCat("<!DOCTYPE html><html>", svg, "</html>"),
                          [](const std::string&, const XmlAttributes&) {});
}

TEST(NiceTicks, AreRoundNumbers) {
  EXPECT_THAT(NiceTicks(0, 10, 5, false).at, ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(NiceTicks(0.3, 4.1, 5, false).at, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(NiceTicks(1, 1000, 5, true).at, ElementsAre(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000));
  EXPECT_THAT(NiceTicks(1, 1e5, 5, true).at, ElementsAre(1, 10, 100, 1000, 1e4, 1e5));
  EXPECT_EQ(NiceTicks(5, 5, 4, false).at.size() >= 2, true);
  EXPECT_EQ(NiceTicks(0, 0, 4, false).at.size() >= 2, true);
  EXPECT_EQ(NiceTicks(0.9, 0.9000000000000001, 4, false).at.size() >= 2, true) << "equal but for rounding";
  EXPECT_EQ(NiceTicks(0.9, 0.9000000000000001, 4, true).at.size() >= 2, true);
}

TEST(NiceTicks, HoldAnyRangeWithAFewMarks) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-9, 9), factor(1.0001, 1e6);
  for (int i = 0; i < 2000; ++i) {
    const double low = std::pow(10, exponent(random)), high = low * factor(random);
    for (const bool log : {false, true}) {
      const Ticks t = NiceTicks(low, high, 5, log);
      EXPECT_LE(t.low, low * (1 + 1e-9));
      EXPECT_GE(t.high, high * (1 - 1e-9));
      EXPECT_GE(t.at.size(), 2u);
      EXPECT_LE(t.at.size(), 12u) << low << " " << high;
      for (size_t k = 1; k < t.at.size(); ++k) EXPECT_LT(t.at[k - 1], t.at[k]);
    }
  }
}

TEST(Text, IsShortAndHarmless) {
  EXPECT_EQ(ShortNumber(0), "0");
  EXPECT_EQ(ShortNumber(0.25), "0.25");
  EXPECT_EQ(ShortNumber(999.6), "1000");
  EXPECT_EQ(ShortNumber(12345), "12.3k");
  EXPECT_EQ(ShortSeconds(0.0005), "500 us");
  EXPECT_EQ(ShortSeconds(0.0125), "12.5 ms");
  EXPECT_EQ(ShortSeconds(3.2), "3.2 s");
  EXPECT_EQ(EscapeXml("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
  EXPECT_EQ(EscapeXml("größer"), "größer");
  EXPECT_EQ(EscapeXml("\x01\xff\xc3"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(EscapeXml("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd") << "a surrogate";
}

// Whatever the points: well-formed, finite, and every mark within the picture.
TEST(LineChart, StaysWithinItsPicture) {
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> exponent(-6, 6);
  const double odd[] = {0, -1, std::nan(""), std::numeric_limits<double>::infinity(), 1e300, 1e-300};
  for (int trial = 0; trial < 300; ++trial) {
    LineChart chart;
    chart.title = "T";
    chart.x.log = trial % 2 == 1;
    chart.y.log = trial % 3 == 1;
    chart.y.seconds = trial % 5 == 1;
    chart.direct_labels = trial % 2 == 0;
    chart.diagonal = trial % 4 == 0;
    chart.rules = {{1, "here", trial % 7 == 0}};
    for (int line = 0; line < trial % 9; ++line) {
      ChartLine l = {.label = absl::StrCat("line <", line, ">"), .colour = line, .steps = trial % 6 == 0};
      for (int i = 0; i < trial % 11; ++i) {
        ChartPoint p = {.x = std::pow(10, exponent(random)), .y = std::pow(10, exponent(random))};
        if (random() % 8 == 0) p.x = odd[random() % 6];
        if (random() % 8 == 0) p.y = odd[random() % 6];
        if (random() % 2 == 0) {
          p.low = p.y / 2;
          p.high = p.y * 2;
        }
        p.hollow = random() % 2 == 0;
        l.points.push_back(p);
      }
      chart.lines.push_back(l);
    }
    const std::string svg = DrawLineChart(chart);
    EXPECT_EQ(Faults(svg), "");
    EXPECT_THAT(svg, Not(HasSubstr("nan")));
    EXPECT_THAT(svg, Not(HasSubstr("inf")));
    XmlCheck::Faults(absl::StrCat("<!DOCTYPE html>", svg), [&](const std::string& name, const XmlAttributes& a) {
      if (name != "circle") return;
      EXPECT_GE(std::stod(a.at("cx")), 0);
      EXPECT_LE(std::stod(a.at("cx")), chart.width);
      EXPECT_GE(std::stod(a.at("cy")), 0);
      EXPECT_LE(std::stod(a.at("cy")), chart.height);
    });
  }
}

TEST(LineChart, DirectLabelsDoNotOverlap) {
  LineChart chart;
  chart.direct_labels = true;
  for (int i = 0; i < 6; ++i) {
    chart.lines.push_back(
        {.label = absl::StrCat("label", i), .colour = i, .points = {{.x = 0, .y = 0}, {.x = 1, .y = 1 + 0.001 * i}}});
  }
  std::vector<double> heights;
  XmlCheck::Faults(absl::StrCat("<!DOCTYPE html>", DrawLineChart(chart)),
                   [&](const std::string& name, const XmlAttributes& a) {
                     if (name == "text" && a.at("class") == "direct") heights.push_back(std::stod(a.at("y")));
                   });
  ASSERT_EQ(heights.size(), 6u);
  std::sort(heights.begin(), heights.end());
  for (size_t i = 1; i < heights.size(); ++i) EXPECT_GE(heights[i] - heights[i - 1], 12);
}

TEST(HeatMap, DrawsACellForEveryCount) {
  HeatMap map;
  map.x = {.low = 0, .high = 10};
  map.y = {.log = true, .low = 0.001, .high = 1};
  map.counts = {{0, 1, 5}, {0, 0, 100}};
  int cells = 0;
  EXPECT_EQ(XmlCheck::Faults(absl::StrCat("<!DOCTYPE html>", DrawHeatMap(map)),
                             [&](const std::string& name, const XmlAttributes& a) {
                               if (name == "rect") ++cells;
                             }),
            "");
  EXPECT_EQ(cells, 3);
  EXPECT_THAT(DrawHeatMap({.counts = {{0}}}), HasSubstr("no values"));
}

}  // namespace
}  // namespace interlace
