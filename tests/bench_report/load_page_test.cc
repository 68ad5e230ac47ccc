#include "bench/serve/load_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/serve/load_page_points.h"
#include "tests/bench_report/page_check.h"
#include "tests/bench_report/queue_model.h"
#include "tests/bench_report/xml_check.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;

QueueModel Labelled(const std::string& label, int slots) {
  QueueModel model;
  model.label = label;
  model.slots = slots;
  return model;
}

LoadReport SweepOf(std::vector<QueueModel> models, std::vector<double> rates, int seeds) {
  LoadReport report = {.environment = {"abc123", "2 cores", "interlace bench serve"}};
  for (const QueueModel& model : models) {
    for (const double rate : rates) {
      for (int s = 1; s <= seeds; ++s) report.runs.push_back(model.Run(rate, static_cast<uint64_t>(s), 60));
    }
  }
  return report;
}

TEST(XmlCheck, FindsFaults) {
  const auto faults = [](const std::string& text) {
    return XmlCheck::Faults("<!DOCTYPE html>" + text, [](const std::string&, const XmlAttributes&) {});
  };
  EXPECT_EQ(faults("<a b=\"1\">x &amp; y<c/></a>"), "");
  for (const char* bad : {"<a>", "<a><b></a></b>", "<a>&</a>", "<a>1 < 2</a>", "<a b=1/>", "<a b=\"<\"/>", "x", "</a>",
                          "<a b=\"1\" b=\"2\"/>", "<a>&nbsp;</a>", "<a"}) {
    EXPECT_NE(faults(bad), "") << bad;
  }
}

TEST(LoadPage, OfASweepHasEveryFigure) {
  LoadReport report = SweepOf({Labelled("slack", 8), Labelled("fcfs", 3)}, {2, 6, 12}, 3);
  report.capacity =
      CapacityResult{.rate = 7, .low = 6, .high = 8, .seeds = {{1, 6, 8}}, .steps = {{1, 6, 1, true, "holds"}}};
  const CheckedPage page = CheckPage(LoadPage(report, "Slack & fcfs"));
  EXPECT_THAT(page.sections, ElementsAre("capacity", "latency", "goodput", "throughput", "outcomes", "distributions",
                                         "gaps", "requests", "figures"));
  for (const char* text : {"TTFT p50", "TTFT p90", "TTFT p99", "TPOT p99", "Largest gap p99", "Goodput, requests/s",
                           "Requests that met all targets", "Shed or failed", "Tokens/s of one request", "E2EL p50",
                           "abc123", "2 cores", "SmolLM2-135M-Q4_1", "fixed 256/32", "poisson", "Slack &amp; fcfs",
                           "second token", "7 requests/s, 95 % interval 6 to 8"}) {
    EXPECT_THAT(page.html, HasSubstr(text));
  }
  // 9 of latency, 3 of goodput, 3 of throughput, bars of 2 labels, 6 distributions, gaps and requests of 2 labels at 2
  // widths.
  EXPECT_EQ(page.pictures, 9 + 3 + 3 + 2 + 6 + 4 + 4);
}

TEST(LoadPage, OfOneRateHasNoFiguresOverRate) {
  const CheckedPage page = CheckPage(LoadPage(SweepOf({Labelled("a", 8)}, {4}, 1)));
  EXPECT_THAT(page.sections, ElementsAre("summary", "outcomes", "distributions", "gaps", "requests", "figures"));
  EXPECT_THAT(page.html, Not(HasSubstr("of the search")));
}

TEST(LoadPage, OfAClosedLoopStandsOverOpenRequests) {
  LoadReport report = SweepOf({Labelled("a", 8)}, {4, 8}, 1);
  for (size_t i = 0; i < report.runs.size(); ++i) {
    report.runs[i].offered_rate = 0;
    report.runs[i].concurrency = static_cast<int>(4 * (i + 1));
  }
  const CheckedPage page = CheckPage(LoadPage(report));
  EXPECT_THAT(page.html, AllOf(HasSubstr("requests open at once"), Not(HasSubstr("offered rate"))));
}

TEST(LoadPage, MarksSaturationAndDoubts) {
  LoadReport report = SweepOf({Labelled("a", 2)}, {1, 20}, 1);
  report.runs[1].over_saturated = true;
  report.runs[1].stopped_because = "the queue <grew>";
  for (RequestRecord& r : report.runs[0].records) r.sent += absl::Milliseconds(900);
  for (RequestRecord& r : report.runs[0].records) {
    for (absl::Duration& at : r.chunks) at += absl::Seconds(1);
    r.ended += absl::Seconds(1);
  }
  const CheckedPage page = CheckPage(LoadPage(report));
  EXPECT_THAT(page.html, HasSubstr("<b>Over-saturated:</b> a, 20 requests/s, seed 1: the queue &lt;grew&gt;"));
  EXPECT_THAT(page.html, HasSubstr("<b>Not valid:</b> a, 1 requests/s, seed 1: the client sent late"));
  EXPECT_THAT(page.html, HasSubstr("class=\"hollow\""));
}

// Runs that nobody hopes for.
TEST(LoadPage, SurvivesOddRuns) {
  EXPECT_THAT(CheckPage(LoadPage({})).html, HasSubstr("No runs."));

  LoadReport empty = SweepOf({Labelled("a", 2)}, {1, 2}, 1);
  for (LoadRun& run : empty.runs) run.records.clear();
  CheckPage(LoadPage(empty));

  LoadReport dead = SweepOf({Labelled("", 2)}, {1, 2}, 2);
  for (LoadRun& run : dead.runs) {
    for (RequestRecord& r : run.records) {
      r.chunks.clear();
      r.chunk_tokens.clear();
      r.completion_tokens = 0;
      r.ended = r.sent;
      r.outcome = LoadOutcome::kNoConnection;
      r.error = "connection refused \xff";
    }
  }
  CheckPage(LoadPage(dead));

  LoadReport hostile =
      SweepOf({Labelled("</script><script>alert(1)</script>", 2), Labelled("\"'&\x01\xc3", 2)}, {1, 2}, 1);
  hostile.environment.command = "<b>\xf0\x9f\x98\x80</b>";
  hostile.runs[0].model = "<img src=x>";
  hostile.runs[0].dataset.clear();
  EXPECT_THAT(CheckPage(LoadPage(hostile)).html, Not(HasSubstr("alert(1)</script>")));

  for (const int tokens : {1, 2}) {
    QueueModel model = Labelled("few", 4);
    model.tokens = tokens;
    model.pace = 0;  // deliveries at the same instant
    model.stall_chance = 0;
    model.targets = {};
    CheckPage(LoadPage(SweepOf({model}, {1, 3}, 1)));
  }
  QueueModel eventful = Labelled("eventful", 3);
  eventful.shed_after = 0.2;
  eventful.fail_chance = 0.2;
  eventful.cancel_chance = 0.2;
  EXPECT_THAT(CheckPage(LoadPage(SweepOf({eventful}, {2, 20}, 2))).html,
              AllOf(HasSubstr("w-shed"), HasSubstr("w-failed"), HasSubstr("w-left"), HasSubstr("o-truncated")));

  std::vector<QueueModel> many;
  for (int i = 0; i < 12; ++i) many.push_back(Labelled(absl::StrCat("policy number ", i), 1 + i));
  CheckPage(LoadPage(SweepOf(many, {2, 8}, 1)));
}

TEST(LoadPoints, ShowTheHighestLoadThatIsCarried) {
  const LoadReport report = SweepOf({Labelled("a", 8), Labelled("b", 2)}, {8, 1, 2, 40}, 3);
  const LoadPoints points = PointsOf(report.runs);
  EXPECT_THAT(points.labels, ElementsAre("a", "b"));
  EXPECT_THAT(points.places, ElementsAre(1, 2, 8, 40));
  EXPECT_EQ(points.shown_at, 8);
  EXPECT_EQ(points.Shown(1).at, 8);
  EXPECT_EQ(points.points.size(), 8u);
  EXPECT_EQ(points.points[0].runs.size(), 3u);
  EXPECT_EQ(points.targets, QueueModel().targets);
}

TEST(LoadPoints, TargetsThatDifferAreNoCommonTarget) {
  LoadReport report = SweepOf({Labelled("a", 8)}, {1}, 1);
  report.runs[0].records[5].targets.ttft = absl::Seconds(9);
  const LoadPoints points = PointsOf(report.runs);
  EXPECT_FALSE(points.targets.ttft.has_value());
  EXPECT_TRUE(points.targets.tpot.has_value());
}

}  // namespace
}  // namespace interlace
