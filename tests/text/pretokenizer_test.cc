#include "text/pretokenizer.h"

#include <gmock/gmock.h>

#include <random>
#include <string>

#include "common/log.h"
#include "tests/status_matchers.h"
#include "text/text_pattern.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kNames[] = {"smollm", "llama-bpe", "qwen2", "gpt-2", "default", "tekken", "gpt-4o"};

std::unique_ptr<Pretokenizer> Make(const char* name) {
  auto made = Pretokenizer::Make(name);
  EXPECT_OK(made);
  return *std::move(made);
}

TEST(PretokenizerTest, UnknownNamesListTheKnown) {
  EXPECT_THAT(Pretokenizer::Make("falcon"),
              StatusIs(absl::StatusCode::kUnimplemented, AllOf(HasSubstr("falcon"), HasSubstr("smollm, starcoder"))));
}

// A search that comes to PCRE2's limits is not a search without a match: the log says so, once for each.
TEST(TextPatternTest, ASearchThatGivesUpIsNotSilent) {
  std::vector<LogEvent> events;
  SetLogSink([&events](const LogEvent& event) { events.push_back(event); }, LogLevel::kInfo);
  const std::string text(2000, 'a');
  const auto found = [&](uint32_t steps) {
    const auto pattern = TextPattern::Compile("a+a+a+[bd]", steps);
    EXPECT_OK(pattern);
    TextPattern::Search search;
    return pattern->Find(text, 0, search).any;
  };
  EXPECT_FALSE(found(1000));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].level, LogLevel::kError);
  EXPECT_THAT(events[0].text, HasSubstr("not cut"));
  events.clear();
  const auto pattern = TextPattern::Compile("a+[bd]");
  ASSERT_OK(pattern);
  TextPattern::Search search;
  EXPECT_FALSE(pattern->Find(text, 0, search).any);  // a search without a match says nothing
  EXPECT_TRUE(events.empty());
  SetLogSink(nullptr, LogLevel::kInfo);
}

TEST(PretokenizerTest, EachNameHasItsRules) {
  const char* text = "It's  2024,\n\n ok";
  EXPECT_THAT(Make("smollm")->Split(text), ElementsAre("It", "'s", "  ", "2", "0", "2", "4", ",", "\n\n", " ok"));
  EXPECT_THAT(Make("gpt-2")->Split(text), ElementsAre("It", "'s", " ", " 2024", ",", "\n\n", " ok"));
  EXPECT_THAT(Make("llama-bpe")->Split(text), ElementsAre("It", "'s", " ", " ", "202", "4", ",\n\n", " ok"));
  EXPECT_THAT(Make("default")->Split(text), ElementsAre("It", "'", "s", " ", " ", "202", "4", ",", "\n\n", " ok"));
}

TEST(PretokenizerTest, PartsThatAreNotUtf8StandAlone) {
  EXPECT_THAT(Make("gpt-2")->Split("ab\xff\xfe cd\xe4\xb8"), ElementsAre("ab", "\xff", "\xfe", " cd", "\xe4\xb8"));
  EXPECT_THAT(Make("smollm")->Split("\xed\xa0\x80"), ElementsAre("\xed", "\xa0", "\x80"));
  EXPECT_THAT(Make("smollm")->Split(""), ElementsAre());
}

TEST(PretokenizerTest, PiecesCoverAnyBytesInOrder) {
  std::mt19937 random(3);
  for (const char* name : kNames) {
    const auto pretokenizer = Make(name);
    for (int round = 0; round < 3000; ++round) {
      std::string text(random() % 60, ' ');
      const bool ascii = random() % 2 == 0;
      for (char& byte : text) byte = static_cast<char>(ascii ? " \n\t'sA1!\xc3\xa9"[random() % 10] : random() % 256);
      std::string joined;
      for (absl::string_view piece : pretokenizer->Split(text)) {
        ASSERT_FALSE(piece.empty());
        joined += std::string(piece);
      }
      ASSERT_EQ(joined, text);
    }
  }
}

// Some 10^11 steps if a run were scanned anew for each of its characters: the test would time out.
TEST(PretokenizerTest, LongRunsTakeNoQuadraticTime) {
  const auto repeat = [](const std::string& unit) {
    std::string text;
    while (text.size() < 500000) text += unit;
    return text;
  };
  for (const char* name : kNames) {
    const auto pretokenizer = Make(name);
    for (const char* unit : {"a", "A", "Ab", "aB", " ", "\n", "\t", "1", "!", "'", "中", "\u3000", " \n", "a ", "'s",
                             "\xff", "é\xff", "\r\n "}) {
      const std::string text = repeat(unit);
      for (const std::string& whole : {text, text + "x", "x" + text}) {
        size_t bytes = 0;
        for (absl::string_view piece : pretokenizer->Split(whole)) bytes += piece.size();
        ASSERT_EQ(bytes, whole.size()) << name;
      }
    }
  }
}

}  // namespace
}  // namespace interlace
