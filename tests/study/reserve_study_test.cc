// The search for a reserve: all factors are there, the result depends on the seeds alone, the page is whole.
#include "bench/study/reserve_study.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_split.h"
#include "tests/bench_report/page_check.h"
#include "tests/status_matchers.h"
#include "tests/study/quiet_test.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ReserveOptions Small(int threads) {
  ReserveOptions options;
  options.policy = *FindPolicy("swap");
  options.searches = {{"share", 0, 12, 4}, {"cap", 0, 6, 2}};
  options.seeds = 3;
  options.threads = threads;
  options.base.options.context = 1 << 20;
  options.base.options.max_running = 256;
  options.base.shape.layers = 4;
  options.base.shape.device_slots = 4 * 60;
  options.load.requests = 40;
  options.load.arrivals.process = "burst";
  options.load.dataset.input = {.a = 30};
  options.load.dataset.output = {.a = 100};
  options.traced = "none";
  return options;
}

class ReserveStudyTest : public QuietTest {};

TEST_F(ReserveStudyTest, RunsEveryFactorWithEverySeed) {
  const ReserveResult result = *RunReserve(Small(2), nullptr);
  std::vector<std::string> rules;
  double swaps = 0;
  for (const std::vector<ReservePoint>& points : result.searches) {
    for (const ReservePoint& point : points) {
      rules.push_back(point.rule);
      ASSERT_EQ(point.seeds.size(), 3u);
      for (const ReserveFigures& f : point.seeds) {
        EXPECT_EQ(f.answered, 40) << point.rule;
        EXPECT_GT(f.output_throughput, 0);
        swaps += f.swaps;
      }
    }
  }
  EXPECT_THAT(rules, ElementsAre("share:0", "share:4", "share:8", "share:12", "cap:0", "cap:2", "cap:4", "cap:6"));
  EXPECT_GT(swaps, 0) << "nothing was swapped: this shows nothing";
  EXPECT_EQ(ReserveTable(result, 1).size(), 1 + 2 + 8u);
  EXPECT_EQ(ReserveTable(result, 4).size(), 1 + 2 + 2u);
}

// Both hold nothing back.
TEST_F(ReserveStudyTest, AFactorOfZeroOfEitherRuleIsTheSame) {
  const ReserveResult result = *RunReserve(Small(1), nullptr);
  for (size_t s = 0; s < 3; ++s) {
    const ReserveFigures &share = result.searches[0][0].seeds[s], &cap = result.searches[1][0].seeds[s];
    EXPECT_EQ(share.output_throughput, cap.output_throughput);
    EXPECT_EQ(share.swaps, cap.swaps);
  }
}

// The bound of the second rule, by its closed form: with more than 60 / 6 requests at work nobody else starts, so that
// fewer are there to be swapped out.
TEST_F(ReserveStudyTest, HoldingBackSwapsLess) {
  const ReserveResult result = *RunReserve(Small(1), nullptr);
  const auto swaps = [&](size_t search, size_t at) {
    return OverSeeds(result.searches[search][at], &ReserveFigures::swaps).mean;
  };
  EXPECT_LT(swaps(1, 3), swaps(1, 0));
  EXPECT_LE(swaps(0, 3), swaps(0, 0));
}

TEST_F(ReserveStudyTest, DependsOnTheSeedsAlone) {
  const std::string one = ReserveJson(*RunReserve(Small(1), nullptr), "");
  EXPECT_EQ(one, ReserveJson(*RunReserve(Small(3), nullptr), ""));
  ReserveOptions other = Small(1);
  other.first_seed = 9;
  other.load.dataset.input = {.shape = LengthSpec::Shape::kUniform, .a = 10, .b = 50};
  EXPECT_NE(one, ReserveJson(*RunReserve(other, nullptr), ""));
}

TEST_F(ReserveStudyTest, TheTraceIsOfTheRunThatWasAskedFor) {
  const ReserveResult result = *RunReserve(Small(2), nullptr);
  ASSERT_FALSE(result.trace.empty());
  const std::vector<std::string> lines = absl::StrSplit(TraceCsv(result.trace), '\n', absl::SkipEmpty());
  EXPECT_EQ(lines.size(), result.trace.size() + 1);
  // What leaves of the cache counts in the trace, and not as swapped out.
  double out = 0;
  for (const MemoryOperation& op : result.trace) {
    if (op.kind == "leave" || op.kind == MoveKindName(MoveKind::kCopyOut)) out += op.blocks * op.layers / 4.0;
  }
  EXPECT_GE(out, result.plain[0].seeds[0].blocks_out);
  EXPECT_GT(result.plain[0].seeds[0].blocks_out, 0);
  ReserveOptions unknown = Small(1);
  unknown.traced = "share:99";
  EXPECT_THAT(RunReserve(unknown, nullptr).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("share:99")));
}

TEST_F(ReserveStudyTest, ThePageHasEveryFigure) {
  const CheckedPage page = CheckPage(ReservePage(*RunReserve(Small(2), nullptr), {{"command", "a & b"}}));
  EXPECT_THAT(page.sections, ElementsAre("share", "cap", "figures"));
  EXPECT_EQ(page.pictures, 2 * 4);
  for (const char* text : {"Output tokens/s", "Input traffic", "Swap operations", "Blocks swapped out", "quantile"}) {
    EXPECT_THAT(page.html, HasSubstr(text));
  }
  ReserveOptions one = Small(1);
  one.seeds = 1;
  CheckPage(ReservePage(*RunReserve(one, nullptr), {}));
}

}  // namespace
}  // namespace interlace
