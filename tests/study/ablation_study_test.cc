// The ablation: each row has one thing more, its figures add up, an answer that differs is seen.
#include "bench/study/ablation_study.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/bench_report/page_check.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;

// A machine on which mode number m takes 60 / m seconds for 10 requests of 20 + 5 tokens.
class Machine {
 public:
  absl::StatusOr<StudyRun> Run(const AblationMode& mode) {
    const std::vector<AblationMode> modes = AblationModes(8);
    size_t m = 0;
    while (modes[m].name != mode.name) ++m;
    if (++runs_ > most_runs) return absl::CancelledError("interrupted");
    StudyRun made;
    const absl::Duration each = absl::Seconds(6.0 / static_cast<double>(m + 1));
    for (int i = 0; i < 10; ++i) {
      RequestRecord record{.index = i, .outcome = LoadOutcome::kOk, .prompt_tokens = 20, .completion_tokens = 5};
      record.sent = each * i;
      for (int t = 1; t <= 5; ++t) {
        record.chunks.push_back(record.sent + each / 5 * t);
        record.chunk_tokens.push_back(1);
      }
      record.ended = record.chunks.back();
      record.text = absl::StrCat("answer ", i);
      if (mode.name == differs && i == 3) record.text += " and more";
      made.run.records.push_back(std::move(record));
    }
    made.run.elapsed = made.run.records.back().ended;
    made.steps.Add(StepWork().Add(0, 7), 1);
    return made;
  }
  int most_runs = 1000;
  std::string differs;

 private:
  int runs_ = 0;
};

AblationResult RunOn(Machine& machine) {
  AblationOptions options;
  options.rounds = 2;
  return *RunAblation(
      options, [&](const AblationMode& mode, const LoadPlanSpec&) { return machine.Run(mode); }, nullptr);
}

TEST(AblationStudy, EachModeLeavesLessOut) {
  const std::vector<AblationMode> modes = AblationModes(5);
  std::vector<std::string> names;
  for (const AblationMode& mode : modes) names.push_back(mode.name);
  EXPECT_THAT(names, ElementsAre("without KV cache", "KV cache", "static batching", "continuous batching",
                                 "+ prefix cache", "+ KV by layer"));
  EXPECT_TRUE(modes[0].client.without_cache);
  EXPECT_EQ(modes[1].concurrency, 1);
  EXPECT_EQ(modes[2].concurrency, 5);
  EXPECT_FALSE(modes[4].client.private_prefixes);
  for (size_t m = 0; m + 1 < modes.size(); ++m) EXPECT_EQ(modes[m].policy, "fcfs");
  EXPECT_EQ(modes.back().policy, "slack");
}

TEST(AblationStudy, FiguresAddUp) {
  Machine machine;
  const AblationResult result = RunOn(machine);
  ASSERT_EQ(result.rows.size(), 6u);
  for (size_t m = 0; m < 6; ++m) {
    const AblationRow& row = result.rows[m];
    EXPECT_NEAR(row.seconds, 60.0 / static_cast<double>(m + 1), 1e-6);
    EXPECT_EQ(row.answered, 10);
    EXPECT_EQ(row.prompt_tokens, 200);
    EXPECT_EQ(row.output_tokens, 50);
    EXPECT_EQ(row.computed, 7);
    EXPECT_EQ(row.same, 20);  // of two rounds
    EXPECT_EQ(row.compared, 20);
  }
  const auto table = AblationTable(result);
  ASSERT_EQ(table.size(), 7u);
  EXPECT_EQ(table[3][0], "3 static batching");
  EXPECT_EQ(table[3][7], "3.00x");
  EXPECT_EQ(table[3][8], "1.50x");
}

TEST(AblationStudy, AnAnswerThatDiffersIsSeen) {
  Machine machine;
  machine.differs = "+ prefix cache";
  const AblationResult result = RunOn(machine);
  for (const AblationRow& row : result.rows) EXPECT_EQ(row.same, row.mode.name == machine.differs ? 18 : 20);
}

TEST(AblationStudy, RoundsThatAreNotWholeDoNotCount) {
  Machine machine;
  machine.most_runs = 8;
  const AblationResult result = RunOn(machine);
  EXPECT_TRUE(result.interrupted);
  for (const AblationRow& row : result.rows) EXPECT_EQ(row.compared, 10);
  Machine none;
  none.most_runs = 3;
  EXPECT_THAT(RunAblation(
                  {}, [&](const AblationMode& mode, const LoadPlanSpec&) { return none.Run(mode); }, nullptr)
                  .status(),
              StatusIs(absl::StatusCode::kCancelled, ::testing::_));
}

TEST(AblationStudy, ThePageHasRowsAndLayers) {
  Machine machine;
  AblationResult result = RunOn(machine);
  CheckedPage page = CheckPage(AblationPage(result, {{"model", "m"}}));
  EXPECT_THAT(page.sections, ElementsAre("rows"));
  result.profile = {.batch = 8,
                    .context = 100,
                    .total = 100,
                    .embedding = 1,
                    .head = 20,
                    .sampler = 4,
                    .outside = 5,
                    .layers = {40, 30}};
  page = CheckPage(AblationPage(result, {}));
  EXPECT_THAT(page.sections, ElementsAre("rows", "layers"));
  EXPECT_EQ(AblationProfileTable(result.profile).size(), 1 + 1 + 2 + 3u);
  EXPECT_EQ(page.pictures, 1 + 3);
}

}  // namespace
}  // namespace interlace
