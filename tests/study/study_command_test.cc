// The studies' commands on a tiny model: scheduler, rank and transfers are the real ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/bench_ablation_command.h"
#include "cli/bench_layerkv_command.h"
#include "cli/bench_reserve_command.h"
#include "cli/bench_skip_command.h"
#include "cli/skip_prompts.h"
#include "tests/bench_report/page_check.h"
#include "tests/status_matchers.h"
#include "tests/study/quiet_test.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class StudyCommandTest : public QuietTest {
 protected:
  StudyCommandTest() {
    config_.model.path = file_.path();
    config_.engine.threads = 1;
    config_.kv.block_tokens = 16;
    config_.kv.device_bytes.value = 64 << 10;
    config_.kv.host_bytes.value = 16 << 20;
  }
  ~StudyCommandTest() override {
    for (const std::string& path : {json_, html_, TestPath("runs.json"), TestPath("trace.csv")}) {
      std::filesystem::remove(path);
    }
  }
  static std::string Content(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  StudyFileFlags Files() const {
    StudyFileFlags files;
    files.json = json_;
    files.html = html_;
    return files;
  }

  TinyFile file_{{.layers = 3}};
  Config config_;
  const std::string json_ = TestPath("study.json"), html_ = TestPath("study.html");
};

TEST_F(StudyCommandTest, LayerKvMeasuresAndSimulates) {
  BenchLayerKvOptions options;
  options.policies = "fcfs,stream,slack";
  options.parked = "1,none";
  options.rates = "1";
  options.seeds = 2;
  options.calibration = 4;
  options.simulate = true;
  options.load.prompt = "uniform:20:60";
  options.load.answer = "uniform:4:24";
  options.load.requests = 10;
  options.files = Files();
  options.runs = TestPath("runs.json");
  ASSERT_OK(BenchLayerKvCommand(config_, options));
  const json out = json::parse(Content(json_));
  EXPECT_TRUE(out["measured"].get<bool>());
  EXPECT_GT(out["kv_limited_rate"].get<double>(), 0);
  ASSERT_EQ(out["rows"].size(), 4u);
  for (const json& row : out["rows"]) {
    EXPECT_EQ(row["compared_answers"], 20) << row;
    EXPECT_EQ(row["same_answers"], 20) << row;
    EXPECT_TRUE(row["simulated_mean_ttft_s"].is_number());
  }
  EXPECT_EQ(out["runs"].size(), 8u);
  for (const json& run : out["runs"]) EXPECT_GT(run["steps"].get<int>(), 0);
  CheckPage(Content(html_));
  EXPECT_EQ(json::parse(Content(options.runs))["runs"].size(), 8u);
}

TEST_F(StudyCommandTest, LayerKvInVirtualTimeNeedsNoModel) {
  config_.model.path.clear();
  config_.kv.device_bytes.value = 24000000;
  BenchLayerKvOptions options;
  options.policies = "fcfs,slack";
  options.parked = "4";
  options.rates = "0.5,1";
  options.seeds = 1;
  options.calibration = 6;
  options.load.requests = 20;
  options.files = Files();
  EXPECT_THAT(BenchLayerKvCommand(config_, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--virtual")));
  options.simulate = true;
  Config tiny = config_;
  tiny.kv.device_bytes.value = 100000;
  EXPECT_THAT(BenchLayerKvCommand(tiny, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv.device_bytes")));
  ASSERT_OK(BenchLayerKvCommand(config_, options));
  const std::string first = Content(json_);
  EXPECT_EQ(json::parse(first)["rows"].size(), 4u);
  ASSERT_OK(BenchLayerKvCommand(config_, options));
  EXPECT_EQ(Content(json_), first);
}

TEST_F(StudyCommandTest, AblationComputesLessRowByRowAndSaysTheSame) {
  BenchAblationOptions options;
  options.batch = 3;
  options.rounds = 1;
  options.groups = 2;
  options.shared = 40;
  options.load.prompt = "8";
  options.load.answer = "uniform:2:9";
  options.load.requests = 9;
  options.files = Files();
  ASSERT_OK(BenchAblationCommand(config_, options));
  const json out = json::parse(Content(json_));
  ASSERT_EQ(out["rows"].size(), 6u);
  for (const json& row : out["rows"]) {
    EXPECT_EQ(row["answered"], 9) << row;
    EXPECT_EQ(row["same_texts"], 9) << row;
    EXPECT_EQ(row["compared_texts"], 9);
    EXPECT_EQ(row["prompt_tokens"], out["rows"][1]["prompt_tokens"]);
    EXPECT_EQ(row["total_tokens"], out["rows"][1]["total_tokens"]);
  }
  const auto computed = [&](size_t row) { return out["rows"][row]["computed_positions"].get<int64_t>(); };
  EXPECT_GT(computed(0), 2 * computed(1));
  EXPECT_EQ(computed(1), computed(2));
  EXPECT_LT(computed(4), computed(1)) << "no prefix was shared";
  EXPECT_EQ(out["profile"]["layers_us"].size(), 3u);
  CheckPage(Content(html_));
}

TEST_F(StudyCommandTest, ReserveRunsWithoutAModel) {
  config_.model.path.clear();
  config_.kv.device_bytes.value = 12000000;
  BenchReserveOptions options;
  options.share = "0:4:2";
  options.cap = "";
  options.seeds = 2;
  options.load.requests = 20;
  options.files = Files();
  options.trace = TestPath("trace.csv");
  options.trace_rule = "share:2";
  ASSERT_OK(BenchReserveCommand(config_, options));
  EXPECT_EQ(json::parse(Content(json_))["points"].size(), 5u);
  CheckPage(Content(html_));
  EXPECT_THAT(Content(options.trace), HasSubstr("at_s,operation,request"));
  for (const char* bad : {"x", "1:2", "3:1:1", "0:1:0", "0:1:nan", "-1:1:1", "0:inf:1", "0:1e9:1e-9"}) {
    options.share = bad;
    EXPECT_THAT(BenchReserveCommand(config_, options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(bad)));
  }
}

TEST_F(StudyCommandTest, SkipProfilesAndDraftsWithoutAWrongToken) {
  std::ofstream(TestPath("runs.json"))
      << "One day a fox went out to see.\n\nIt came back late, and it was wet through.\n"
         "The others laughed at it.\n\nThere was no more to say of this.\n";
  BenchSkipOptions options;
  options.tasks = {"tales=" + TestPath("runs.json"), "again=" + TestPath("runs.json")};
  options.texts = 2;
  options.tokens = 8;
  options.rows = 4;
  options.depth = 2;
  options.outputs = 6;
  options.shares = "0.5,1";
  options.accuracy = {"needle:3"};
  options.needle_words = 20;
  options.files = Files();
  ASSERT_OK(BenchSkipCommand(config_, options));
  const json out = json::parse(Content(json_));
  EXPECT_EQ(out["layers"], 3);
  // Of three layers the one in the middle may be passed over: 5 methods with two shares, truncation that leaves
  // everything, and three leads.
  ASSERT_EQ(out["quality"]["rows"].size(), 5 * 2 + 1 + 3u);
  for (const json& row : out["quality"]["rows"]) {
    EXPECT_EQ(row["positions"], 2 * 4) << row;
    EXPECT_EQ(row.contains("tests"), row["method"] != "own") << row;
    if (row["method"] != "truncation") continue;
    EXPECT_EQ(row["perplexity"], out["quality"]["whole_perplexity"]);
  }
  for (const json& prompt : out["prompts"]) {
    EXPECT_EQ(prompt["influence"].size(), 3u);
    EXPECT_GT(prompt["kl"][2].get<double>(), 0) << "without an attention the model says the same";
    EXPECT_GT(prompt["kl"][3].get<double>(), 0);
    EXPECT_EQ(prompt["kl"][0], 0) << "the first layer always runs";
  }
  ASSERT_EQ(out["drafts"].size(), 10u);
  for (const json& drafts : out["drafts"]) {
    EXPECT_EQ(drafts["wrong_tokens"], 0) << drafts;
    EXPECT_GE(drafts["tokens_per_step"].get<double>(), 1);
  }
  CheckPage(Content(html_));
  options.tasks = {"tales"};
  EXPECT_THAT(BenchSkipCommand(config_, options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("NAME=FILE")));
  options.tasks = {"tales=/no/such/file"};
  EXPECT_THAT(BenchSkipCommand(config_, options), StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/file")));
  options.accuracy = {"needle:3", "needle"};
  EXPECT_THAT(BenchSkipCommand(config_, options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
  options.accuracy = {};
  options.truncate = "0.5,1.5";
  EXPECT_THAT(BenchSkipCommand(config_, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--truncate")));
  options.truncate = "none";
  options.leads = "sure";
  EXPECT_THAT(BenchSkipCommand(config_, options), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--leads")));
}

TEST(SkipPromptsTest, TextsOfLinesAndOfParagraphs) {
  const auto lines = TextsOf("a.jsonl", R"({"question": "2+2?", "answer": "4"}

{"turns": ["Hello", "Again"]}
)",
                             10);
  ASSERT_OK(lines);
  EXPECT_EQ(*lines, (std::vector<std::string>{"2+2?\n4", "Hello"}));
  for (const char* bad : {"[1]", "{\"turns\": []}", "{\"text\": 5}", "{", "\xff"}) {
    EXPECT_THAT(TextsOf("a.jsonl", absl::StrCat("{\"text\": \"x\"}\n", bad), 10).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a.jsonl:2")));
  }
  const auto paragraphs = TextsOf("a.txt", " one \n\ntwo\nthree is longer\nfour", 6);
  ASSERT_OK(paragraphs);
  EXPECT_EQ(*paragraphs, (std::vector<std::string>{"one\ntwo", "three is longer"}));
}

TEST_F(StudyCommandTest, WhatIsTypedWrongIsNamed) {
  BenchLayerKvOptions options;
  options.simulate = true;
  const auto refused = [&](const BenchLayerKvOptions& typed, const char* flag) {
    EXPECT_THAT(BenchLayerKvCommand(config_, typed), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(flag)));
  };
  auto typed = options;
  typed.rates = "1,x";
  refused(typed, "--rates");
  typed = options;
  typed.seeds = 0;
  refused(typed, "--seeds");
  typed = options;
  typed.load.prompt = "many";
  refused(typed, "--prompt");
  typed = options;
  typed.targets.tpot = "soon";
  refused(typed, "--tpot-slo");
  typed = options;
  typed.policies = "";
  refused(typed, "--policies");
  typed = options;
  typed.files.html = "/no/such/folder/page.html";
  EXPECT_THAT(BenchLayerKvCommand(config_, typed), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("--html")));
}

}  // namespace
}  // namespace interlace
