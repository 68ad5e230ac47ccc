#include "coordinator/front/tool_call_parser.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

const ToolSyntax& Syntax(absl::string_view name) { return **FindToolSyntax(name, nullptr); }

// What the deltas of one output are together.
struct Joined {
  std::string text;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  std::string undone;
  friend bool operator==(const Joined&, const Joined&) = default;
};

void Add(const OutputDelta& delta, Joined* all) {
  all->text += delta.text;
  for (const CallDelta& call : delta.calls) {
    if (all->calls.size() <= call.index) all->calls.resize(call.index + 1);
    all->calls[call.index].first += call.name;
    all->calls[call.index].second += call.arguments;
    all->undone += call.undone;
  }
}

// `cut`: bytes of the next piece.
template <typename Cut>
Joined Parse(absl::string_view syntax, absl::string_view output, Cut cut, bool parallel = true) {
  ToolCallParser parser(Syntax(syntax), {"get_weather", "f", "g"}, parallel);
  Joined all;
  while (!output.empty()) {
    const size_t bytes = std::min<size_t>(output.size(), cut());
    OutputDelta delta;
    parser.Push(output.substr(0, bytes), &delta);
    output.remove_prefix(bytes);
    Add(delta, &all);
  }
  OutputDelta delta;
  parser.Flush(&delta);
  Add(delta, &all);
  return all;
}
Joined Parse(absl::string_view syntax, absl::string_view output, bool parallel = true) {
  return Parse(
      syntax, output, [] { return size_t{1} << 20; }, parallel);
}

struct Case {
  const char* syntax;
  std::string output;
  Joined expected;
};

std::vector<Case> Cases() {
  const std::string weather = R"({"city": "Paris", "days": [1, {"a": "}"}]})";
  return {
      {"hermes", "Just text.\n", {"Just text.\n", {}, ""}},
      {"hermes", "", {}},
      {"hermes",
       "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": " + weather + "}\n</tool_call>",
       {"", {{"get_weather", weather}}, ""}},
      {"hermes",
       "Let me see.\n<tool_call>{\"arguments\": " + weather +
           ", \"name\": \"f\"}</tool_call>\n"
           "<tool_call>\n{\"name\": \"g\"}\n</tool_call>\n",
       {"Let me see.", {{"f", weather}, {"g", "{}"}}, ""}},
      {"hermes",
       "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call> and so on",
       {" and so on", {{"f", "{}"}}, ""}},
      // Arguments as a text that holds JSON, and null.
      {"hermes",
       R"(<tool_call>{"name":"f","arguments":"{\"a\": \"\\u00e9\"}"}</tool_call>)",
       {"", {{"f", R"({"a": "\u00e9"})"}}, ""}},
      {"hermes", R"(<tool_call>{"name":"f","arguments":null}</tool_call>)", {"", {{"f", "{}"}}, ""}},
      // No closing mark; half of one.
      {"hermes", R"(<tool_call>{"name":"f","arguments":{"a":1}})", {"", {{"f", R"({"a":1})"}}, ""}},
      {"hermes", R"(<tool_call>{"name":"f","arguments":{"a":1}}</tool)", {"", {{"f", R"({"a":1})"}}, ""}},
      // What is no call is text, all of it.
      {"hermes", "a <tool_call>b</tool_call> c", {"a <tool_call>b</tool_call> c", {}, ""}},
      {"hermes", "a <tool_call>{\"nam\": 1}</tool_call>", {"a <tool_call>{\"nam\": 1}</tool_call>", {}, ""}},
      {"hermes",
       "<tool_call>{\"name\": 7, \"arguments\": {}}",
       {"<tool_call>{\"name\": 7, \"arguments\": {}}", {}, ""}},
      {"hermes", "x < y <tool y", {"x < y <tool y", {}, ""}},
      {"hermes", "<tool_call>\n{\"name\": \"f\", ", {"<tool_call>\n{\"name\": \"f\", ", {}, ""}},
      // Half a call: a stream has shown its begin, and its text is kept.
      {"hermes",
       R"(<tool_call>{"name": "f", "arguments": {"a": [1)",
       {"", {{"f", R"({"a": [1)"}}, R"(<tool_call>{"name": "f", "arguments": {"a": [1)"}},
      {"hermes",
       R"(<tool_call>{"name":"f","arguments":{"a":1]}}</tool_call> b)",
       {"]}}</tool_call> b", {{"f", R"({"a":1)"}}, R"(<tool_call>{"name":"f","arguments":{"a":1)"}},
      {"llama3", R"({"name": "get_weather", "parameters": )" + weather + "}", {"", {{"get_weather", weather}}, ""}},
      {"llama3",
       R"( <|python_tag|>{"name": "get_weather", "parameters": )" + weather + "}",
       {"", {{"get_weather", weather}}, ""}},
      {"llama3",
       R"({"type": "function", "name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": 1}})",
       {"", {{"f", "{}"}, {"g", R"({"a": 1})"}}, ""}},
      // JSON that is no call of a tool that was offered.
      {"llama3", R"({"name": "Bob", "age": 3})", {R"({"name": "Bob", "age": 3})", {}, ""}},
      {"llama3", R"({"city": {"a": 1}} ok)", {R"({"city": {"a": 1}} ok)", {}, ""}},
      {"llama3", R"(Use {"name": "f", "parameters": {}}.)", {R"(Use {"name": "f", "parameters": {}}.)", {}, ""}},
      {"mistral",
       R"([TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}, "id": "abcdefghi"}])",
       {"", {{"f", R"({"a": 1})"}, {"g", "{}"}}, ""}},
      {"mistral", R"([TOOL_CALLS] [{"name": "f", "arguments": {"a": "]"}}])", {"", {{"f", R"({"a": "]"})"}}, ""}},
      {"mistral",
       R"([TOOL_CALLS]f[ARGS]{"a": {"b": 1}}[TOOL_CALLS]g{"c": 2})",
       {"", {{"f", R"({"a": {"b": 1}})"}, {"g", R"({"c": 2})"}}, ""}},
      {"mistral", R"([TOOL_CALLS]f[CALL_ID]123456789[ARGS]{})", {"", {{"f", "{}"}}, ""}},
      {"mistral", "[1, 2] and [TOOL_CALLS] none", {"[1, 2] and [TOOL_CALLS] none", {}, ""}},
  };
}

TEST(ToolCallParserTest, CallsOfEachFamily) {
  for (const Case& c : Cases()) {
    const Joined found = Parse(c.syntax, c.output);
    EXPECT_EQ(found.text, c.expected.text) << c.output;
    EXPECT_EQ(found.calls, c.expected.calls) << c.output;
    EXPECT_EQ(found.undone, c.expected.undone) << c.output;
  }
}

TEST(ToolCallParserTest, ArgumentsStreamAsTheyCome) {
  ToolCallParser parser(Syntax("hermes"), {}, true);
  OutputDelta delta;
  parser.Push(R"(<tool_call>{"name": "f", "argum)", &delta);
  EXPECT_TRUE(delta.empty());
  parser.Push(R"(ents": {"ci)", &delta);
  EXPECT_EQ(delta.calls, (std::vector<CallDelta>{{0, "f", R"({"ci)", ""}}));
  delta = {};
  parser.Push("ty", &delta);
  EXPECT_EQ(delta.calls, (std::vector<CallDelta>{{0, "", "ty", ""}}));
}

TEST(ToolCallParserTest, OneCallIfTheClientWantsNoMore) {
  const std::string two =
      R"(<tool_call>{"name":"f"}</tool_call><tool_call>{"name":"g","arguments":{"a":1}}</tool_call>)";
  EXPECT_EQ(Parse("hermes", two, false), (Joined{"", {{"f", "{}"}}, ""}));
}

// Any bytes, cut anywhere: the deltas are together what they are of the whole.
TEST(ToolCallParserTest, CutsDoNotMatter) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(21);
  const std::vector<std::string> parts = {"<tool_call>",
                                          "</tool_call>",
                                          "<tool",
                                          "_call>",
                                          "[TOOL_CALLS]",
                                          "[ARGS]",
                                          "[",
                                          "]",
                                          "{",
                                          "}",
                                          "\"",
                                          "\\",
                                          ",",
                                          ":",
                                          ";",
                                          " ",
                                          "\n",
                                          "\"name\"",
                                          "\"f\"",
                                          "\"arguments\":",
                                          "\"parameters\": ",
                                          "{\"a\":1}",
                                          "{\"name\":\"f\",",
                                          "f",
                                          "é",
                                          "<|python_tag|>",
                                          "null",
                                          "7",
                                          "{\"name\":\"g\",\"parameters\":{\"x\":[]}}"};
  const std::vector<Case> cases = Cases();
  for (int round = 0; round < 20000; ++round) {
    const ToolSyntax& syntax = ToolSyntaxes()[entropy->Next() % ToolSyntaxes().size()];
    std::string output;
    if (entropy->Next() % 2) {
      output = cases[entropy->Next() % cases.size()].output;
      for (int changes = entropy->Next() % 3; changes > 0 && !output.empty(); --changes) {
        output.replace(entropy->Next() % output.size(), entropy->Next() % 4, parts[entropy->Next() % parts.size()]);
      }
    } else {
      for (int n = entropy->Next() % 30; n > 0; --n) output += parts[entropy->Next() % parts.size()];
    }
    const bool parallel = entropy->Next() % 4 != 0;
    const Joined whole = Parse(syntax.name, output, parallel);
    ASSERT_EQ(Parse(
                  syntax.name, output, [] { return size_t{1}; }, parallel),
              whole)
        << syntax.name << "\n"
        << output;
    ASSERT_EQ(Parse(
                  syntax.name, output, [&] { return 1 + entropy->Next() % 9; }, parallel),
              whole)
        << output;
    if (whole.calls.empty()) {
      ASSERT_EQ(whole.text, output) << syntax.name;
    }
    for (const auto& [name, arguments] : whole.calls) {
      ASSERT_TRUE(name.empty() == arguments.empty()) << output;
    }
  }
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// What a model was trained on is what its template writes of a call: it must be read back as that call.
TEST(ToolCallParserTest, ReadsBackWhatTemplatesWrite) {
  const std::pair<const char*, const char*> families[] = {{"Qwen-Qwen2.5-7B-Instruct", "hermes"},
                                                          {"Qwen-Qwen3-0.6B", "hermes"},
                                                          {"Qwen-QwQ-32B", "hermes"},
                                                          {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes"},
                                                          {"ibm-granite-granite-4.0", "hermes"},
                                                          {"meta-llama-Llama-3.1-8B-Instruct", "llama3"},
                                                          {"meta-llama-Llama-3.2-3B-Instruct", "llama3"},
                                                          {"mistralai-Mistral-Nemo-Instruct-2407", "mistral"},
                                                          {"unsloth-mistral-Devstral-Small-2507", "mistral"},
                                                          {"Qwen3-Coder", ""},
                                                          {"GLM-4.6", ""},
                                                          {"google-gemma-2-2b-it", ""}};
  const std::string tools =
      R"([{"type":"function","function":{"name":"get_weather","description":"d","parameters":{"type":"object","properties":)"
      R"({"city":{"type":"string","description":"c"}},"required":["city"]}}}])";
  const Json arguments = {{"city", "Paris \"x\""}, {"days", 3}};
  for (const auto& [name, family] : families) {
    ChatTemplateSource source{name, ReadText(absl::StrCat("tests/golden/templates/", name, ".jinja")), "", {}};
    source.tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    const absl::StatusOr<ChatTemplate> chat = ChatTemplate::Make(source);
    ASSERT_OK(chat) << name;
    const absl::StatusOr<const ToolSyntax*> syntax = FindToolSyntax("auto", &*chat);
    ASSERT_OK(syntax);
    ASSERT_EQ(*syntax == nullptr ? "" : (*syntax)->name, family) << name;
    if (*syntax == nullptr) continue;
    ChatInput input;
    const std::string call = absl::StrCat(
        R"({"id":"abcdefghi","type":"function","function":{"name":"get_weather","arguments":)", arguments.dump(), "}}");
    const std::string user = R"({"role":"user","content":"hi"})";
    input.messages = absl::StrCat("[", user, "]");
    input.tools = tools;
    const absl::StatusOr<std::string> before = chat->Render(input);
    ASSERT_OK(before) << name;
    input.messages = absl::StrCat("[", user, ",{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[", call, "]}]");
    input.add_generation_prompt = false;
    const absl::StatusOr<std::string> after = chat->Render(input);
    ASSERT_OK(after) << name;
    size_t common = 0;
    while (common < before->size() && (*before)[common] == (*after)[common]) ++common;
    while (common < before->size() && common > 0 && (*after)[common - 1] != '\n') --common;  // both may open a tag
    std::string output = after->substr(common);
    for (const char* end : {"<|im_end|>", "<|eot_id|>", "</s>", "<|end_of_text|>"})
      output = output.substr(0, output.find(end));
    if (const size_t thought = output.find("</think>"); thought != std::string::npos)
      output = output.substr(thought + 8);
    const Joined found = Parse(family, output);
    ASSERT_EQ(found.calls.size(), 1u) << name << "\n" << output;
    EXPECT_EQ(found.calls[0].first, "get_weather");
    EXPECT_EQ(Json::parse(found.calls[0].second, nullptr, false), arguments) << name << "\n" << found.calls[0].second;
  }
}

TEST(ToolSyntaxTest, UnknownNamesAreRefusedWithTheKnownOnes) {
  EXPECT_THAT(FindToolSyntax("qwen", nullptr), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("hermes")));
  EXPECT_EQ(*FindToolSyntax("none", nullptr), nullptr);
  EXPECT_EQ(*FindToolSyntax("auto", nullptr), nullptr);
}

TEST(ToolSyntaxTest, IdsAreApartAndOfTheFamilysForm) {
  for (const ToolSyntax& syntax : ToolSyntaxes()) {
    std::map<std::string, int> seen;
    for (const char* answer : {"a", "b", "ab"}) {
      for (size_t choice = 0; choice < 3; ++choice) {
        for (size_t index = 0; index < 3; ++index) ++seen[CallId(syntax, answer, choice, index)];
      }
    }
    EXPECT_EQ(seen.size(), 27u);
    EXPECT_EQ(CallId(syntax, "a", 0, 0), CallId(syntax, "a", 0, 0));
  }
  EXPECT_EQ(CallId(Syntax("mistral"), "a", 0, 0).size(), 9u);
  EXPECT_THAT(CallId(Syntax("hermes"), "a", 0, 0), ::testing::StartsWith("call_"));
}

}  // namespace
}  // namespace interlace
