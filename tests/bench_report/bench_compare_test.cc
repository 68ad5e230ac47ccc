#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_json.h"
#include "cli/bench_compare_command.h"
#include "cli/bench_page_command.h"
#include "tests/bench_report/queue_model.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Path(const std::string& name) { return absl::StrCat(::testing::TempDir(), "/bench_compare_", name); }

std::string Write(const std::string& name, const LoadReport& report) {
  EXPECT_TRUE(WriteLoadFile(Path(name), LoadReportJson(report)).ok());
  return Path(name);
}

std::string Content(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

TEST(ParseTolerance, TakesPercentAndShares) {
  EXPECT_EQ(*ParseTolerance("5%"), 0.05);
  EXPECT_EQ(*ParseTolerance("0.05"), 0.05);
  EXPECT_EQ(*ParseTolerance("0"), 0);
  for (const char* wrong : {"", "%", "five", "-1%", "100%", "1", "nan", "inf%"}) {
    EXPECT_THAT(ParseTolerance(wrong).status().ToString(), HasSubstr("--tolerance")) << wrong;
  }
}

TEST(BenchCompare, ExitsWithOneOnARegressionOnly) {
  QueueModel before, after;
  after.pace *= 1.5;
  const std::string a = Write("a.json", {.runs = {before.Run(3, 1, 100)}});
  const std::string b = Write("b.json", {.runs = {after.Run(3, 1, 100)}});
  testing::internal::CaptureStdout();
  const absl::StatusOr<int> worse =
      BenchCompareCommand({.a = a, .b = b, .json = Path("c.json"), .html = Path("c.html")});
  const std::string table = testing::internal::GetCapturedStdout();
  ASSERT_TRUE(worse.ok()) << worse.status();
  EXPECT_EQ(*worse, 1);
  EXPECT_THAT(table, AllOf(HasSubstr("3 requests/s, fixed 256/32, poisson"), HasSubstr("bootstrap over requests"),
                           HasSubstr("TPOT mean"), HasSubstr("worse"), HasSubstr("B is worse than A")));
  EXPECT_THAT(table, Not(HasSubstr("\x1b["))) << "no colours when piped";
  const nlohmann::json json = nlohmann::json::parse(Content(Path("c.json")));
  EXPECT_EQ(json["regressed"], true);
  EXPECT_EQ(json["loads"][0]["pairs"], 1);
  EXPECT_THAT(Content(Path("c.html")), AllOf(HasSubstr("model (A)"), HasSubstr("model (B)")));

  testing::internal::CaptureStdout();
  EXPECT_EQ(*BenchCompareCommand({.a = b, .b = a, .json = "-"}), 0);
  EXPECT_EQ(nlohmann::json::parse(testing::internal::GetCapturedStdout())["regressed"], false);
}

TEST(BenchPage, PutsFilesTogether) {
  QueueModel named, nameless;
  named.label = "slack";
  nameless.label.clear();
  const std::string a = Write("first.json", {.environment = {"abc", "2 cores", "x"}, .runs = {named.Run(3, 1, 20)}});
  const std::string b =
      Write("second.json", {.environment = {"def", "2 cores", "y"}, .runs = {nameless.Run(3, 1, 20)}});
  testing::internal::CaptureStdout();
  const absl::Status status =
      BenchPageCommand({.files = {a, b}, .html = Path("page.html"), .json = Path("all.json"), .csv = Path("all.csv")});
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "2 runs of 2 files\n");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(Content(Path("page.html")),
              AllOf(HasSubstr("slack"), HasSubstr("bench_compare_second"), HasSubstr("abc; def")));
  const absl::StatusOr<LoadReport> all = ReadLoadReport(Path("all.json"));
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->runs.size(), 2u);
  EXPECT_EQ(all->environment.hardware, "2 cores");
  EXPECT_THAT(Content(Path("all.csv")), HasSubstr("slack,"));
  EXPECT_THAT(BenchPageCommand({.files = {a}}).ToString(), HasSubstr("--html"));
  EXPECT_THAT(BenchPageCommand({.files = {"/nowhere"}, .html = "x"}).ToString(), HasSubstr("/nowhere"));
}

TEST(BenchCompare, NamesWhatIsWrong) {
  const std::string a = Write("a.json", {.runs = {QueueModel().Run(3, 1, 10)}});
  EXPECT_THAT(BenchCompareCommand({.a = a, .b = "/nowhere.json"}).status().ToString(), HasSubstr("/nowhere.json"));
  ASSERT_TRUE(WriteLoadFile(Path("d.json"), "{").ok());
  EXPECT_THAT(BenchCompareCommand({.a = Path("d.json"), .b = a}).status().ToString(), HasSubstr("d.json: is no JSON"));
  EXPECT_THAT(BenchCompareCommand({.a = a, .b = a, .tolerance = "x"}).status().ToString(), HasSubstr("--tolerance"));
}

}  // namespace
}  // namespace interlace
