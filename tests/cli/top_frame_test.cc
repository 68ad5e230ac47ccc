// What `interlace top` shows, at every size.
#include "cli/top_frame.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_split.h"
#include "cli/top_command.h"
#include "tests/front/random_snapshot.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Columns that a line takes; -1: it leaves the terminal in a colour, or steers it otherwise.
int ColumnsOf(absl::string_view line) {
  int columns = 0;
  bool plain = true;
  for (size_t i = 0; i < line.size(); ++i) {
    const auto c = static_cast<unsigned char>(line[i]);
    if (c == 0x1b) {
      const size_t end = line.find('m', i);
      if (end == absl::string_view::npos || line[i + 1] != '[') return -1;
      plain = line.substr(i, end - i) == "\x1b[0";
      i = end;
    } else if (c < 0x20 || c == 0x7f) {
      return -1;
    } else if ((c & 0xc0) != 0x80) {
      ++columns;
    }
  }
  return plain ? columns : -1;
}

TEST(TopFrameTest, FitsTheWindowWhateverIsShown) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const auto entropy = MakeSeededEntropy(seed);
    TopView view{.url = "http://127.0.0.1:8000", .state = RandomUiState(*entropy), .known = seed % 10 != 0};
    view.colour = Toss(*entropy);
    view.live = Toss(*entropy);
    if (seed % 7 == 0) view.trouble = "no answer from http://127.0.0.1:8000: refused; it is tried again";
    const int width = static_cast<int>(DrawUpTo(*entropy, 220)), height = static_cast<int>(DrawUpTo(*entropy, 60));
    const std::string frame = TopFrame(view, width, height);
    const std::vector<std::string> lines = absl::StrSplit(frame, '\n');
    EXPECT_TRUE(height == 0 || lines.size() <= static_cast<size_t>(height)) << seed;
    for (const std::string& line : lines) {
      const int columns = ColumnsOf(line);
      EXPECT_GE(columns, 0) << "seed " << seed << ": " << line;
      EXPECT_LE(columns, std::max(1, width)) << "seed " << seed << ": " << line;
    }
    EXPECT_TRUE(view.colour || frame.find('\x1b') == std::string::npos) << seed;
  }
}

UiState OneRequest() {
  UiState state{"smollm", "1", {}};
  ReplicaSnapshot& replica = state.replica;
  replica.policy = "slack";
  replica.uptime = absl::Seconds(65);
  replica.ranks = replica.ranks_ready = 2;
  replica.layers = 4;
  replica.slot_bytes = 1 << 20;
  replica.stages = {{0, 2, {50, 25, 0, 100}, {0, 0, 0, 100}}, {2, 4, {10, 0, 10, 100}, {100, 0, 0, 100}}};
  replica.by_layer = {
      {0, 8, 0, 1, 0, 0, 0, {}}, {0, 4, 0, 1, 0, 0, 0, {}}, {1, 1, 4, 1, 1, 0, 0, {}}, {1, 0, 8, 1, 1, 0, 0, {}}};
  replica.streaming = 1;
  RequestSnapshot row;
  row.name = "chat-1";
  row.state = RequestState::kStreaming;
  row.targets = {.ttft = absl::Seconds(1), .largest_gap = absl::Milliseconds(100), .priority = 2, .tenant = "acme"};
  row.prompt = 100;
  row.generated = 7;
  row.max_tokens = 64;
  row.computed = 106;
  row.kept = 2;
  row.layers = "ddhh";
  row.age = absl::Milliseconds(2500);
  row.first_token = absl::Milliseconds(300);
  row.since_token = absl::Milliseconds(250);
  row.slack = absl::Milliseconds(-150);
  replica.requests = {row};
  row.name = "chat-0";
  row.state = RequestState::kFailed;
  replica.ended = {row};
  replica.slo = {{9, 1}, {}, {1, 0}, {}, 9, 1, 8};
  replica.steps = 10;
  replica.step_p50 = absl::Milliseconds(12);
  replica.step_p95 = absl::Milliseconds(30);
  replica.seconds = {{0, 0}, {30, 60}, {30, 60}, {60, 120}};
  return state;
}

TEST(TopFrameTest, SaysWhatTheStateSays) {
  TopView view{.url = "http://x", .state = OneRequest(), .known = true};
  const std::string frame = TopFrame(view, 160, 0);
  EXPECT_THAT(frame, AllOf(HasSubstr("smollm  slack  2/2 ranks"), HasSubstr("40 generated, 80 computed"),
                           HasSubstr("step 12ms (p95 30ms)"), HasSubstr("1 streaming"), HasSubstr("9 finished")));
  EXPECT_THAT(frame,
              AllOf(HasSubstr("75.0% of 100 MiB"), HasSubstr("10.0% of 100 MiB"), HasSubstr("100.0% of 100 MiB")));
  EXPECT_THAT(frame, AllOf(HasSubstr("device   █▒░· 13 MiB"), HasSubstr("host     ··▒█ 12 MiB"),
                           HasSubstr("streamed ··██ by 1")));
  EXPECT_THAT(frame, AllOf(HasSubstr("ttft 90.0% of 10"), HasSubstr("tpot -"), HasSubstr("gap 100.0% of 1 "),
                           HasSubstr("goodput 80.0%")));
  const std::vector<std::string> lines = absl::StrSplit(frame, '\n');
  const auto row = std::find_if(lines.begin(), lines.end(),
                                [](const std::string& line) { return line.find("chat-1") != std::string::npos; });
  ASSERT_NE(row, lines.end());
  EXPECT_THAT(*row, AllOf(HasSubstr("streaming"), HasSubstr("acme"), HasSubstr("7/64"), HasSubstr("██░░"),
                          HasSubstr("300ms"), HasSubstr("250ms"), HasSubstr("-150ms")));
  EXPECT_THAT(lines.back(), AllOf(HasSubstr("failed"), HasSubstr("chat-0")));
}

TEST(TopFrameTest, SaysHowManyItDoesNotShow) {
  TopView view{.url = "http://x", .state = OneRequest(), .known = true};
  ReplicaSnapshot& replica = view.state.replica;
  replica.requests.assign(100, replica.requests[0]);
  replica.streaming = 300;
  const std::vector<std::string> lines = absl::StrSplit(TopFrame(view, 120, 30), '\n');
  ASSERT_EQ(lines.size(), 30u);
  const auto rows = std::count_if(lines.begin(), lines.end(),
                                  [](const std::string& line) { return line.find("chat-1") != std::string::npos; });
  EXPECT_GT(rows, 10);
  EXPECT_EQ(lines.back(), absl::StrCat("and ", 300 - rows, " more"));
}

TEST(TopFrameTest, NamesOfRequestsCannotSteerTheTerminal) {
  TopView view{.url = "http://x", .state = OneRequest(), .known = true};
  view.state.replica.requests[0].name = "a\x1b[2J\nb";
  view.state.replica.requests[0].targets.tenant = "t\r\a";
  view.state.model = "m\x1b]0;owned\a";
  const std::string frame = TopFrame(view, 160, 0);
  EXPECT_THAT(frame, AllOf(HasSubstr("a?[2J?b"), HasSubstr("t??"), Not(HasSubstr("\x1b"))));
}

TEST(TopFrameTest, TroubleIsShownOverWhatWasKnown) {
  TopView view{.url = "http://x", .trouble = "no answer from http://x: refused"};
  EXPECT_THAT(TopFrame(view, 80, 24), AllOf(HasSubstr("http://x"), HasSubstr("refused")));
  view.state = OneRequest();
  view.known = true;
  EXPECT_THAT(TopFrame(view, 120, 40), AllOf(HasSubstr("refused"), HasSubstr("chat-1")));
}

TEST(TopCommandTest, RefusesWhatItCannotDo) {
  EXPECT_THAT(TopCommand({.once = true, .interval = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--interval 0")));
  EXPECT_THAT(TopCommand({.url = "ftp://x", .once = true}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--url ftp://x")));
  EXPECT_THAT(TopCommand({.url = "http://127.0.0.1:1", .once = true}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("127.0.0.1:1/ui/state")));
}

}  // namespace
}  // namespace interlace
