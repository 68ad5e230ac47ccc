#include "coordinator/front/chat_history.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "coordinator/front/api_error.h"
#include "coordinator/front/json_text.h"
#include "coordinator/front/openai_json.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ApiRequest> Chat(const std::string& fields) { return ParseChat(absl::StrCat("{", fields, "}")); }
const ChatInput& InputOf(const ApiRequest& request) { return std::get<ChatInput>(request.spec.prompts.at(0)); }

constexpr char kUser[] = R"("messages":[{"role":"user","content":"a"}])";
constexpr char kTool[] =
    R"({"type":"function","function":{"name":"f","parameters":{"type":"object","z":1,"a":{"b":[2]}}}})";

TEST(ChatHistoryTest, HistoriesWithCallsAreAccepted) {
  const absl::StatusOr<ApiRequest> request = Chat(R"("messages":[
      {"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"user","content":"w?","name":"Bo"},
      {"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[
        {"id":"c1","type":"function","function":{"name":"f","arguments":"{\"z\": 1, \"a\": [2]}"}},
        {"id":"c2","type":"function","function":{"name":"g","arguments":""}},
        {"type":"function","function":{"name":"h","arguments":{"b":1}}}]},
      {"role":"tool","tool_call_id":"c1","content":"3"},
      {"role":"assistant","refusal":null}])");
  ASSERT_OK(request);
  EXPECT_EQ(InputOf(*request).messages,
            R"([{"role":"system","content":"ab"},{"role":"user","content":"w?","name":"Bo"},)"
            R"({"role":"assistant","content":"","reasoning_content":"hm","tool_calls":[)"
            R"({"id":"c1","type":"function","function":{"name":"f","arguments":{"z": 1, "a": [2]}}},)"
            R"({"id":"c2","type":"function","function":{"name":"g","arguments":{}}},)"
            R"({"type":"function","function":{"name":"h","arguments":{"b":1}}}]},)"
            R"({"role":"tool","content":"3","tool_call_id":"c1"},{"role":"assistant","content":""}])");
}

TEST(ChatHistoryTest, ACallInAHistoryHasAnObjectOfArguments) {
  for (const char* arguments : {R"("not json")", R"("{\"a\": 1")", R"("[1]")", R"("7")", "[1]", "7"}) {
    const absl::Status status =
        Chat(absl::StrCat(R"("messages":[{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"f",)",
                          R"("arguments":)", arguments, "}}]}]"))
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << arguments;
    EXPECT_EQ(ToApiError(status).param, "messages[0].tool_calls") << arguments;
  }
}

TEST(ChatHistoryTest, ToolsKeepTheOrderOfTheirMembers) {
  const absl::StatusOr<ApiRequest> request =
      Chat(absl::StrCat(kUser, ",\"tools\": [", kTool, "] , \"parallel_tool_calls\":false"));
  ASSERT_OK(request);
  EXPECT_EQ(InputOf(*request).tools, absl::StrCat("[", kTool, "]"));
  EXPECT_EQ(request->spec.tools, std::vector<std::string>{"f"});
  EXPECT_FALSE(request->spec.parallel_tool_calls);
}

TEST(ChatHistoryTest, ToolChoiceNoneTakesTheToolsAway) {
  for (const char* choice : {"\"auto\"", "null", "\"none\""}) {
    const absl::StatusOr<ApiRequest> request =
        Chat(absl::StrCat(kUser, ",\"tools\":[", kTool, "],\"tool_choice\":", choice));
    ASSERT_OK(request);
    EXPECT_EQ(InputOf(*request).tools.empty(), std::string(choice) == "\"none\"");
  }
  for (const char* choice :
       {R"({"type":"function","function":{"name":"another"}})", R"({"type":"function"})", "7", "\"other\""}) {
    const absl::Status status = Chat(absl::StrCat(kUser, ",\"tools\":[", kTool, "],\"tool_choice\":", choice)).status();
    EXPECT_EQ(ToApiError(status).param, "tool_choice") << choice;
  }
}

TEST(ChatHistoryTest, BadFieldsAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"messages[0]", R"("messages":[{"role":"user"}])"},
      {"messages[0]", R"("messages":[{"role":"tool","content":null}])"},
      {"messages[0]", R"("messages":[{"content":"a"}])"},
      {"messages[0]", R"("messages":[7])"},
      {"messages", R"("messages":[{"role":"robot","content":"a"}])"},
      {"messages", R"("messages":{})"},
      {"messages[0]", R"("messages":[{"role":"user","content":[{"type":"image_url","image_url":"x"}]}])"},
      {"messages[0]", R"("messages":[{"role":"assistant","tool_calls":{}}])"},
      {"messages[0]", R"("messages":[{"role":"assistant","tool_calls":[{"function":{}}]}])"},
      {"messages[0]", R"("messages":[{"role":"assistant","tool_calls":[{"id":7,"function":{"name":"f"}}]}])"},
      {"tools", R"("tools":7,"messages":[{"role":"user","content":"a"}])"},
      {"tools", R"("tools":[{"type":"web_search"}],"messages":[{"role":"user","content":"a"}])"},
      {"tools", R"("tools":[{"type":"function","function":{}}],"messages":[{"role":"user","content":"a"}])"},
      {"tools",
       R"("tools":[{"type":"function","function":{"name":"f","parameters":[]}}],"messages":[{"role":"user","content":"a"}])"},
      {"continue_final_message",
       R"("continue_final_message":true,"add_generation_prompt":true,"messages":[{"role":"user","content":"a"}])"},
      {"chat_template_kwargs", R"("chat_template_kwargs":[],"messages":[{"role":"user","content":"a"}])"},
  };
  for (const auto& [field, body] : cases) {
    const absl::Status status = Chat(body).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body;
    EXPECT_EQ(ToApiError(status).param, field) << body;
  }
}

TEST(ChatHistoryTest, TheEndOfThePromptIsAsTheFieldsSay) {
  EXPECT_TRUE(InputOf(*Chat(kUser)).add_generation_prompt);
  EXPECT_FALSE(InputOf(*Chat(absl::StrCat(kUser, ",\"add_generation_prompt\":false"))).add_generation_prompt);
  const absl::StatusOr<ApiRequest> goes_on = Chat(absl::StrCat(kUser, ",\"continue_final_message\":true"));
  EXPECT_TRUE(InputOf(*goes_on).continue_final_message);
  EXPECT_FALSE(InputOf(*goes_on).add_generation_prompt);
  EXPECT_EQ(InputOf(*Chat(absl::StrCat(kUser, R"(,"chat_template_kwargs":{"enable_thinking":false})"))).variables,
            R"({"enable_thinking":false})");
}

TEST(RawMemberTest, FindsTheTextOfAMember) {
  const absl::string_view body = " {\"a\" : [1, \"]\\\"\"] ,\"b\":{\"a\":2},\"c\":tru , \"d\":\"x\\\\\", \"a\":3 }";
  EXPECT_EQ(RawMember(body, "a"), "3");
  EXPECT_EQ(RawMember(body, "b"), "{\"a\":2}");
  EXPECT_EQ(RawMember(body, "c"), "tru");
  EXPECT_EQ(RawMember(body, "d"), "\"x\\\\\"");
  EXPECT_EQ(RawMember(body, "x"), "");
  EXPECT_EQ(RawMember("{\"a\" : [1, \"]\\\"\"] }", "a"), "[1, \"]\\\"\"]");
  EXPECT_EQ(RawMember("{\"a\":7}", "a"), "7");
  for (const char* broken : {"", "{", "{\"", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":[", "{\"a\\", "[1]"}) {
    EXPECT_EQ(RawMember(broken, "b"), "") << broken;
  }
}

}  // namespace
}  // namespace interlace
