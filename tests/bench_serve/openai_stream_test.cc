// What is read out of an event stream, by hand-made logs of events.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "absl/strings/str_cat.h"
#include "bench/serve/load_client_openai.h"
#include "bench/serve/random_draws.h"
#include "bench/serve/sse.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Text(absl::string_view text, int usage = -1) {
  return absl::StrCat(R"(data: {"choices":[{"index":0,"text":")", text, R"(","finish_reason":null}])",
                      usage < 0 ? "" : absl::StrCat(R"(,"usage":{"prompt_tokens":9,"completion_tokens":)", usage, "}"),
                      "}\n\n");
}
const std::string kFinish = "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n";
const std::string kDone = "data: [DONE]\n\n";
std::string Usage(int completion) {
  return absl::StrCat(R"(data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":)", completion, "}}\n\n");
}

// Events, each at its own millisecond.
RequestRecord Read(const std::vector<std::string>& events, int32_t cancel = -1) {
  RequestRecord record;
  OpenAiStream stream(false, true, cancel, &record);
  int at = 0;
  for (const std::string& event : events) {
    if (!stream.ended()) stream.Feed(event, absl::Milliseconds(++at));
  }
  stream.End(absl::Milliseconds(++at), "over");
  return record;
}

TEST(OpenAiStream, TimesAreThoseOfDeliveriesWithText) {
  const RequestRecord record = Read({Text(""), Text("a"), Text(""), Text("b"), kFinish, Usage(2), kDone});
  EXPECT_EQ(record.outcome, LoadOutcome::kOk);
  EXPECT_THAT(record.chunks, ElementsAre(absl::Milliseconds(2), absl::Milliseconds(4)));
  EXPECT_EQ(record.ended, absl::Milliseconds(7));
  EXPECT_EQ(record.text, "ab");
  EXPECT_EQ(record.prompt_tokens, 9);
}

TEST(OpenAiStream, RunningCountsSayHowManyTokensADeliveryHas) {
  const RequestRecord record = Read({Text("", 0), Text("a", 1), Text("", 2), Text("bc", 4), kFinish, Usage(5), kDone});
  EXPECT_THAT(record.chunk_tokens, ElementsAre(1, 4)) << "3 counted by then and the last, which had no text";
  EXPECT_EQ(record.completion_tokens, 5);
}

TEST(OpenAiStream, WithoutRunningCountsTheFinalOneIsSpreadEvenly) {
  EXPECT_THAT(Read({Text("a"), Text("b"), Text("c"), Text("d"), kFinish, Usage(8), kDone}).chunk_tokens,
              ElementsAre(2, 2, 2, 2));
  EXPECT_THAT(Read({Text("a"), Text("b"), Text("c"), Text("d"), kFinish, Usage(4), kDone}).chunk_tokens,
              ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(Read({Text("a"), Text("b"), Text("c"), kFinish, kDone}).chunk_tokens, ElementsAre(1, 1, 1))
      << "no count at all: one for each";
}

TEST(OpenAiStream, SpreadTokensSumToTheCount) {
  Draws draws(MakeSeededEntropy(2));
  for (int round = 0; round < 500; ++round) {
    RequestRecord record;
    for (int64_t i = draws.Below(40); i >= 0; --i)
      record.chunk_tokens.push_back(1 + static_cast<int32_t>(draws.Below(3)));
    record.completion_tokens = static_cast<int32_t>(draws.Below(200));
    const std::vector<int32_t> before = record.chunk_tokens;
    const double factor = record.completion_tokens / std::accumulate(before.begin(), before.end(), 0.0);
    SpreadTokens(&record);
    EXPECT_EQ(std::accumulate(record.chunk_tokens.begin(), record.chunk_tokens.end(), 0), record.completion_tokens);
    for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(record.chunk_tokens[i], before[i] * factor, 1.0);
  }
}

TEST(OpenAiStream, CutAnywhereItReadsTheSame) {
  const std::string bytes = ": ping\n\nevent: x\n" + Text("a") + "\r\n" + Text("b\\n c") + kFinish + Usage(2) + kDone;
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    RequestRecord record;
    OpenAiStream stream(false, true, -1, &record);
    stream.Feed(bytes.substr(0, cut), absl::Milliseconds(1));
    if (!stream.ended()) stream.Feed(bytes.substr(cut), absl::Milliseconds(2));
    EXPECT_EQ(record.outcome, LoadOutcome::kOk) << cut << " " << record.error;
    EXPECT_EQ(record.text, "ab\n c") << cut;
  }
}

TEST(OpenAiStream, WhateverComesItEndsAndIsNoSuccessWithoutDone) {
  const std::string bytes = Text("a") + Text("b") + kFinish + Usage(2) + kDone;
  Draws draws(MakeSeededEntropy(5));
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = bytes.substr(0, static_cast<size_t>(draws.Below(static_cast<int64_t>(bytes.size()))));
    for (int64_t i = draws.Below(4); i > 0 && !damaged.empty(); --i) {
      damaged[static_cast<size_t>(draws.Below(static_cast<int64_t>(damaged.size())))] =
          static_cast<char>(draws.Below(256));
    }
    const RequestRecord record = Read({damaged});
    if (damaged.find("data: [DONE]") == std::string::npos) {
      EXPECT_NE(record.outcome, LoadOutcome::kOk) << damaged;
      EXPECT_FALSE(record.error.empty());
    }
  }
}

TEST(OpenAiStream, HangsUpWhenItHasEnough) {
  const RequestRecord record = Read({Text("a"), Text("b"), Text("c"), kFinish, kDone}, 2);
  EXPECT_EQ(record.outcome, LoadOutcome::kCancelled);
  EXPECT_EQ(record.completion_tokens, 2);
  EXPECT_EQ(record.ended, absl::Milliseconds(2));
}

TEST(OpenAiStream, ATokenOfNoTextIsAnAnswer) {
  const RequestRecord record = Read({Text(""), kFinish, Usage(1), kDone});
  EXPECT_EQ(record.outcome, LoadOutcome::kOk);
  EXPECT_TRUE(record.chunks.empty());
  EXPECT_EQ(record.completion_tokens, 1);
}

TEST(SseParser, FieldsLinesAndComments) {
  std::vector<std::string> events;
  SseParser parser;
  const auto note = [&](absl::string_view data) { events.emplace_back(data); };
  EXPECT_OK(
      parser.Feed("data: a\ndata:b\n\n: comment\nid: 4\nretry: 9\nevent: e\n\ndata:  two blanks\r\n\r\n\n\n", note));
  EXPECT_THAT(events, ElementsAre("a\nb", " two blanks"));
  EXPECT_THAT(parser.Feed("<html>\n", note), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("<html>")));
}

TEST(SseParser, ALineWithoutEndIsNotKeptForever) {
  SseParser parser;
  absl::Status status;
  for (int i = 0; i < 40 && status.ok(); ++i) status = parser.Feed(std::string(1 << 20, 'x'), [](absl::string_view) {});
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no end")));
}

}  // namespace
}  // namespace interlace
