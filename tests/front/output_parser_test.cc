#include "coordinator/front/output_parser.h"

#include <gtest/gtest.h>

#include "common/entropy.h"

namespace interlace {
namespace {

const ToolSyntax* Hermes() { return *FindToolSyntax("hermes", nullptr); }

struct Joined {
  std::string thought, text;
  size_t calls = 0;
  friend bool operator==(const Joined&, const Joined&) = default;
};

template <typename Cut>
Joined Parse(const OutputForm& form, absl::string_view output, Cut cut) {
  OutputParser parser(form);
  Joined all;
  const auto add = [&all](const OutputDelta& delta) {
    all.thought += delta.thought;
    all.text += delta.text;
    for (const CallDelta& call : delta.calls) all.calls += !call.name.empty();
  };
  while (!output.empty()) {
    const size_t bytes = std::min<size_t>(output.size(), cut());
    add(parser.Push(output.substr(0, bytes)));
    output.remove_prefix(bytes);
  }
  add(parser.Flush());
  return all;
}
Joined Parse(const OutputForm& form, absl::string_view output) {
  return Parse(form, output, [] { return size_t{1} << 20; });
}

TEST(OutputParserTest, PlainOutputIsLeftAlone) {
  for (const char* output : {"", " a\n", "<think>x</think> y", "<tool_call>{\"name\":\"f\"}</tool_call>"}) {
    EXPECT_EQ(Parse({}, output), (Joined{"", output, 0}));
  }
}

TEST(OutputParserTest, ThoughtIsCutOffTheBeginning) {
  const OutputForm form{.thinks = true};
  EXPECT_EQ(Parse(form, "<think>\nLet me see.\n</think>\n\nYes. <think>"), (Joined{"Let me see.", "Yes. <think>", 0}));
  EXPECT_EQ(Parse(form, "No thought.</think>"), (Joined{"", "No thought.</think>", 0}));
  EXPECT_EQ(Parse(form, " <thin"), (Joined{"", " <thin", 0}));
  EXPECT_EQ(Parse(form, "<think>cut </thi"), (Joined{"cut </thi", "", 0}));
  EXPECT_EQ(Parse(form, "<think></think>a"), (Joined{"", "a", 0}));
  EXPECT_EQ(Parse({.thinks = true, .in_thought = true}, "a < b\n</think>\n\nc"), (Joined{"a < b", "c", 0}));
}

TEST(OutputParserTest, CallsComeBehindTheThought) {
  const OutputForm form{.syntax = Hermes(), .thinks = true};
  EXPECT_EQ(Parse(form, "<think>\n<tool_call> may help\n</think>\n\n<tool_call>{\"name\":\"f\"}</tool_call>"),
            (Joined{"<tool_call> may help", "", 1}));
}

TEST(OutputParserTest, CutsDoNotMatter) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(22);
  const char* const parts[] = {"<think>", "</think>", "<",           "</thi",           "nk>", " ", "\n",
                               "a",       "é",        "<tool_call>", "{\"name\":\"f\"}"};
  for (int round = 0; round < 5000; ++round) {
    OutputForm form{.thinks = entropy->Next() % 4 != 0, .in_thought = entropy->Next() % 2 == 0};
    if (entropy->Next() % 2) form.syntax = Hermes();
    std::string output;
    for (int n = entropy->Next() % 12; n > 0; --n) output += parts[entropy->Next() % std::size(parts)];
    const Joined whole = Parse(form, output);
    ASSERT_EQ(Parse(form, output, [] { return size_t{1}; }), whole) << output;
    ASSERT_EQ(Parse(form, output, [&] { return 1 + entropy->Next() % 5; }), whole) << output;
  }
}

}  // namespace
}  // namespace interlace
