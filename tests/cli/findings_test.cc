#include "cli/findings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_split.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<Finding> kFindings = {{"cpu", Verdict::kOk, "2 cores", ""},
                                        {"disk bandwidth", Verdict::kWarn, "writes 3 MB/s", "another disk"},
                                        {"port", Verdict::kFail, "taken", "another port"}};

TEST(FindingsTest, TheTableIsAlignedAndWithoutColoursWhereItIsPiped) {
  const std::string table = FindingsTable(kFindings);
  const std::vector<std::string> lines = absl::StrSplit(table, '\n');
  ASSERT_GE(lines.size(), 6u);
  const size_t column = lines[0].find("found");
  EXPECT_EQ(lines[1].find("2 cores"), column);
  EXPECT_EQ(lines[2].find("writes"), column);
  EXPECT_EQ(lines[3].find("taken"), column);
  EXPECT_THAT(table, Not(HasSubstr("\x1b")));
  EXPECT_THAT(table, HasSubstr("1 ok, 1 warn, 1 fail\n"));
}

TEST(FindingsTest, JsonHasEachAndTheirCounts) {
  const nlohmann::json json = nlohmann::json::parse(FindingsJson(kFindings));
  EXPECT_EQ(json["ok"], 1);
  EXPECT_EQ(json["warn"], 1);
  EXPECT_EQ(json["fail"], 1);
  ASSERT_EQ(json["findings"].size(), 3u);
  EXPECT_EQ(json["findings"][2]["check"], "port");
  EXPECT_EQ(json["findings"][2]["verdict"], "fail");
  EXPECT_EQ(json["findings"][1]["cure"], "another disk");
}

TEST(FindingsTest, OnlyWhatFailsMakesTheStatusBad) {
  EXPECT_EQ(FindingsExitStatus(kFindings), 1);
  EXPECT_EQ(FindingsExitStatus({kFindings[0], kFindings[1]}), 0);
  EXPECT_EQ(FindingsExitStatus({}), 0);
}

}  // namespace
}  // namespace interlace
