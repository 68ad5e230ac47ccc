// The LayerKV experiment in virtual time: every row is there, the same seed gives the same figures, the page is whole.
#include "bench/study/layerkv_study.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/bench_report/page_check.h"
#include "tests/status_matchers.h"
#include "tests/study/quiet_test.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

LayerKvOptions Small() {
  LayerKvOptions options;
  options.lines = *ParseStudyLines("fcfs,stream,slack", "1,none");
  options.shares = {0.5, 1.0};
  options.seeds = 2;
  options.calibration = 12;
  options.load.requests = 40;
  options.load.dataset.input = {.a = 256};
  options.load.dataset.output = {.a = 48};
  options.load.targets = {.tpot = absl::Milliseconds(150)};
  return options;
}

VirtualRun Machine() {
  VirtualRun base;
  base.options.context = 1 << 20;
  base.options.max_running = 256;
  base.shape.device_slots = 900;
  return base;
}

LayerKvResult RunSmall(const LayerKvOptions& options, bool real = false) {
  const VirtualRun base = Machine();
  const auto make = [&](const StudyRequest& request) { return RunStudyVirtually(base, request); };
  return *RunLayerKv(options, make, real, base, nullptr);
}

TEST(StudyLines, AreOneForEachBoundWherePoliciesPark) {
  std::vector<std::string> labels;
  const auto lines = *ParseStudyLines("fcfs,slack,layerkv", "1,4,none");
  for (const StudyLine& line : lines) labels.push_back(line.label);
  EXPECT_THAT(labels, ElementsAre("fcfs", "slack 1", "slack 4", "slack none", "layerkv"));
  EXPECT_EQ(lines[1].parked, 1);
  EXPECT_EQ(lines[3].parked, kAnyNumberParked);
  EXPECT_THAT(ParseStudyLines("fcsf", "1").status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("fcsf")));
  for (const char* bad : {"0", "-1", "x", "1.5"}) {
    EXPECT_THAT(ParseStudyLines("slack", bad).status(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(bad)));
  }
}

class LayerKvStudyTest : public QuietTest {};

TEST_F(LayerKvStudyTest, HasEveryRowAndItsFiguresAddUp) {
  const LayerKvOptions options = Small();
  const LayerKvResult result = RunSmall(options);
  EXPECT_GT(result.kv_rate, 0);
  EXPECT_GT(result.cores_rate, result.kv_rate) << "memory is no limit: this shows nothing";
  const std::vector<LayerKvRow> rows = LayerKvRows(result);
  ASSERT_EQ(rows.size(), options.lines.size() * options.shares.size());
  ASSERT_EQ(result.points.size(), rows.size() * 2);
  for (const LayerKvRow& row : rows) {
    EXPECT_EQ(row.seeds, 2u);
    EXPECT_EQ(row.answered, 80);
    EXPECT_GE(row.second, row.ttft);
    EXPECT_GE(row.e2el, row.second);
    EXPECT_GE(row.ttft_p99, row.ttft);
    if (options.lines[row.line].policy->name == "fcfs") {
      EXPECT_EQ(row.ttft_factor, 1);
      EXPECT_EQ(row.throughput_ratio, 1);
    }
  }
  // What it is all about: where memory is the limit, slack's first tokens come sooner, and without a bound soonest.
  const auto at = [&](const char* label) {
    for (const LayerKvRow& row : rows) {
      if (row.share == 1 && options.lines[row.line].label == label) return *row.ttft_factor;
    }
    return 0.0;
  };
  EXPECT_GT(at("slack 1"), 1);
  EXPECT_GT(at("slack none"), 2);
  EXPECT_EQ(LayerKvTable(result).size(), rows.size() + 1);
}

TEST_F(LayerKvStudyTest, TheSameSeedGivesTheSameFigures) {
  EXPECT_EQ(LayerKvJson(RunSmall(Small()), ""), LayerKvJson(RunSmall(Small()), ""));
  LayerKvOptions other = Small();
  other.first_seed = 7;
  EXPECT_NE(LayerKvJson(RunSmall(Small()), ""), LayerKvJson(RunSmall(other), ""));
}

// Within a seed and a rate all lines run, and no line always runs first.
TEST_F(LayerKvStudyTest, LinesTakeTurns) {
  const LayerKvResult result = RunSmall(Small());
  std::set<size_t> firsts;
  const size_t lines = result.options.lines.size();
  for (size_t i = 0; i < result.points.size(); i += lines) {
    firsts.insert(result.points[i].line);
    std::set<size_t> seen;
    for (size_t j = i; j < i + lines; ++j) {
      seen.insert(result.points[j].line);
      EXPECT_EQ(result.points[j].seed, result.points[i].seed);
      EXPECT_EQ(result.points[j].share, result.points[i].share);
    }
    EXPECT_EQ(seen.size(), lines);
  }
  EXPECT_GT(firsts.size(), 1u);
}

// A machine whose steps are known, and slower in one run than in the next: the fit finds it, and the runs in virtual
// time are those that were made.
TEST_F(LayerKvStudyTest, SimulatesTheMachineThatMadeTheRuns) {
  LayerKvOptions options = Small();
  options.simulate = true;
  const VirtualRun base = Machine();
  int runs = 0;
  const auto make = [&](const StudyRequest& request) -> absl::StatusOr<StudyRun> {
    VirtualRun machine = base;
    machine.law = Slowed(base.law, 1 + 0.1 * (runs++ % 3));
    absl::StatusOr<StudyRun> made = RunStudyVirtually(machine, request);
    for (int32_t rows = 1; rows < 300; rows += 7) {
      StepWork work;
      for (int32_t r = 0; r < rows % 11; ++r) work.Add(100 * r, 1);
      work.Add(rows, rows);
      made->steps.Add(work, machine.law.Compute(work));
    }
    for (RequestRecord& record : made->run.records) record.text = absl::StrCat("answer ", record.index);
    return made;
  };
  const LayerKvResult result = *RunLayerKv(options, make, true, base, nullptr);
  for (const LayerKvRow& row : LayerKvRows(result)) {
    ASSERT_TRUE(row.simulated_ttft.has_value());
    EXPECT_NEAR(*row.simulated_ttft / row.ttft, 1, 0.1);
    EXPECT_EQ(row.same, row.compared);
    EXPECT_EQ(row.compared, 80);
  }
  const std::vector<std::string> heading = LayerKvTable(result)[0];
  EXPECT_THAT(heading, ::testing::Contains("TTFT virtual"));
  EXPECT_THAT(heading, ::testing::Contains("same tokens"));
  const CheckedPage page = CheckPage(LayerKvPage(result, {{"model", "<m>"}}));
  EXPECT_THAT(page.sections,
              ElementsAre("claims", "before", "after", "throughput", "frontier", "simulated", "figures"));
  EXPECT_EQ(page.pictures, 3 + 3 + 3 + 2 + 1);
}

TEST_F(LayerKvStudyTest, AnAnswerThatDiffersIsSeen) {
  LayerKvOptions options = Small();
  const VirtualRun base = Machine();
  int runs = 0;
  const auto make = [&](const StudyRequest& request) -> absl::StatusOr<StudyRun> {
    absl::StatusOr<StudyRun> made = RunStudyVirtually(base, request);
    for (RequestRecord& record : made->run.records) record.text = absl::StrCat("answer ", record.index);
    if (++runs == 9) made->run.records[5].text = "another";
    return made;
  };
  const LayerKvResult result = *RunLayerKv(options, make, true, base, nullptr);
  int64_t same = 0, compared = 0;
  for (const LayerKvRow& row : LayerKvRows(result)) {
    same += row.same;
    compared += row.compared;
  }
  EXPECT_EQ(compared - same, 1);
  for (const LayerKvClaim& claim : LayerKvClaims(result)) {
    if (claim.what == "answers, token by token") {
      EXPECT_FALSE(claim.met);
    }
  }
}

TEST_F(LayerKvStudyTest, ThePageHasEveryFigure) {
  const LayerKvResult result = RunSmall(Small());
  const CheckedPage page = CheckPage(LayerKvPage(result, {{"command", "interlace bench layerkv --virtual"}}));
  EXPECT_THAT(page.sections, ElementsAre("claims", "before", "after", "throughput", "frontier", "figures"));
  for (const char* text :
       {"TTFT, mean", "TTFT, p99", "Second token, mean", "TPOT, p99", "Largest gap, p99", "E2EL, mean",
        "Answers, requests/s", "Requests that met all targets", "Bound on parked requests", "All policies at 1.00",
        "slack none", "interlace bench layerkv --virtual"}) {
    EXPECT_THAT(page.html, HasSubstr(text));
  }
  EXPECT_EQ(page.pictures, 3 + 3 + 3 + 2);
}

TEST_F(LayerKvStudyTest, WhatIsInterruptedIsShown) {
  const VirtualRun base = Machine();
  int runs = 0;
  const auto make = [&](const StudyRequest& request) -> absl::StatusOr<StudyRun> {
    if (++runs > 6) return absl::CancelledError("interrupted");
    return RunStudyVirtually(base, request);
  };
  const LayerKvResult result = *RunLayerKv(Small(), make, false, base, nullptr);
  EXPECT_TRUE(result.interrupted);
  EXPECT_EQ(result.points.size(), 4u);  // and two bursts
  EXPECT_EQ(LayerKvRows(result).size(), 4u);
  CheckPage(LayerKvPage(result, {}));
  EXPECT_TRUE(nlohmann::json::parse(LayerKvJson(result, "x"))["interrupted"].get<bool>());
}

TEST_F(LayerKvStudyTest, ALoadThatDoesNotFitIsRefused) {
  VirtualRun base = Machine();
  base.shape.device_slots = 60;
  base.shape.host_frames = 1;
  const auto make = [&](const StudyRequest& request) { return RunStudyVirtually(base, request); };
  EXPECT_THAT(RunLayerKv(Small(), make, false, base, nullptr).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--device-kv")));
}

}  // namespace
}  // namespace interlace
