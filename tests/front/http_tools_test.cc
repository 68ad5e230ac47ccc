// Chats with tools and thoughts through the HTTP door, with the template of Qwen2.5 on the test model's tokenizer.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "coordinator/front/http_front.h"
#include "tests/front/http_client.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

ChatTemplate QwenTemplate() {
  std::ifstream file("tests/golden/templates/Qwen-Qwen2.5-7B-Instruct.jinja", std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  absl::StatusOr<ChatTemplate> made = TestText().chat_template->WithText(text.str());
  CHECK(made.ok());
  return *std::move(made);
}

struct ToolRig {
  explicit ToolRig(bool thinks = false) {
    const absl::StatusOr<const ToolSyntax*> syntax = FindToolSyntax("auto", &chat_template);
    CHECK(syntax.ok() && *syntax != nullptr);
    intake = std::make_unique<Intake>(
        Intake::Options{.model = "tiny", .context = kTestContext, .layers = 30, .tools = *syntax, .thinks = thinks},
        *TestText().tokenizer, &chat_template, engine, clock, MakeSeededEntropy(7));
    absl::StatusOr<std::unique_ptr<HttpFront>> listening = HttpFront::Listen({}, *intake, metrics);
    CHECK(listening.ok());
    front = *std::move(listening);
  }
  // Answers the index-th request with `text`.
  void Say(size_t index, absl::string_view text, FinishReason finish = FinishReason::kStop) {
    const Request request = engine.Await(index);
    int32_t count = 0;
    for (int32_t token : TestText().tokenizer->Encode(text, false)) {
      request.sink->OnTokens({token});
      ++count;
    }
    request.sink->OnEnd(EndOf(request, count, finish));
  }
  ChatTemplate chat_template = QwenTemplate();
  FakeEngine engine;
  RealClock clock;
  Metrics metrics{"tiny"};
  std::unique_ptr<Intake> intake;
  std::unique_ptr<HttpFront> front;
};

Json Body(bool stream) {
  return {{"messages", {{{"role", "user"}, {"content", "Weather in Paris?"}}}},
          {"tools",
           {{{"type", "function"},
             {"function",
              {{"name", "get_weather"}, {"parameters", {{"type", "object"}, {"properties", Json::object()}}}}}}}},
          {"stream", stream}};
}

std::vector<Json> Events(const HttpAnswer& answer) {
  std::vector<Json> events;
  for (absl::string_view event : absl::StrSplit(answer.body, "\n\n", absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&event, "data: {")) events.push_back(Json::parse("{" + std::string(event)));
  }
  return events;
}

constexpr char kTwoCalls[] =
    "I'll look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>\n"
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

TEST(HttpToolsTest, CallsAreReadOutOfAWholeAnswer) {
  ToolRig rig;
  HttpClient client(rig.front->port());
  client.Post("/v1/chat/completions", Body(false).dump());
  rig.Say(0, kTwoCalls);
  const HttpAnswer answer = client.Read();
  ASSERT_EQ(answer.status, 200);
  const Json choice = Json::parse(answer.body)["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["content"], "I'll look.");
  const Json& calls = choice["message"]["tool_calls"];
  ASSERT_EQ(calls.size(), 2u);
  EXPECT_EQ(calls[0]["type"], "function");
  EXPECT_EQ(calls[0]["function"]["name"], "get_weather");
  EXPECT_EQ(calls[0]["function"]["arguments"], "{\"city\": \"Paris\"}");
  EXPECT_EQ(calls[1]["function"]["arguments"], "{\"city\": \"Rome\"}");
  EXPECT_NE(calls[0]["id"], calls[1]["id"]);
}

TEST(HttpToolsTest, CallsStreamAndJoinToTheSame) {
  ToolRig rig;
  HttpClient client(rig.front->port());
  client.Post("/v1/chat/completions", Body(true).dump());
  rig.Say(0, kTwoCalls);
  std::string text, finish;
  std::vector<std::pair<std::string, std::string>> calls;
  size_t pieces = 0;
  for (const Json& event : Events(client.Read())) {
    const Json& choice = event["choices"][0];
    if (!choice["finish_reason"].is_null()) finish = choice["finish_reason"];
    const Json& delta = choice["delta"];
    text += delta.value("content", "");
    if (!delta.contains("tool_calls")) continue;
    for (const Json& call : delta["tool_calls"]) {
      const size_t index = call["index"];
      if (calls.size() <= index) calls.resize(index + 1);
      if (call.contains("id")) {
        EXPECT_THAT(call["id"].get<std::string>(), ::testing::StartsWith("call_"));
        EXPECT_EQ(call["type"], "function");
        calls[index].first = call["function"]["name"];
      }
      calls[index].second += call["function"]["arguments"].get<std::string>();
      ++pieces;
    }
  }
  EXPECT_EQ(text, "I'll look.");
  EXPECT_EQ(finish, "tool_calls");
  EXPECT_EQ(calls, (std::vector<std::pair<std::string, std::string>>{{"get_weather", "{\"city\": \"Paris\"}"},
                                                                     {"get_weather", "{\"city\": \"Rome\"}"}}));
  EXPECT_GT(pieces, 4u);  // arguments come as they are made
}

TEST(HttpToolsTest, HalfACallEndsAnAnswerAsTextDoesStreamedOrNot) {
  ToolRig rig;
  for (const bool stream : {false, true}) {
    HttpClient client(rig.front->port());
    client.Post("/v1/chat/completions", Body(stream).dump());
    rig.Say(stream, "So: <tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Pa");
    const HttpAnswer answer = client.Read();
    const Json choice = stream ? Events(answer).back()["choices"][0] : Json::parse(answer.body)["choices"][0];
    EXPECT_EQ(choice["finish_reason"], "stop") << answer.body;
  }
}

TEST(HttpToolsTest, HalfACallIsNotLost) {
  ToolRig rig;
  HttpClient client(rig.front->port());
  client.Post("/v1/chat/completions", Body(false).dump());
  const std::string half = "So: <tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Pa";
  rig.Say(0, half, FinishReason::kLength);
  const Json choice = Json::parse(client.Read().body)["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
  EXPECT_EQ(choice["message"]["content"], half);
}

TEST(HttpToolsTest, ThePromptShowsToolsAndHistory) {
  ToolRig rig;
  HttpClient client(rig.front->port());
  Json body = Body(false);
  body["messages"].push_back({{"role", "assistant"},
                              {"content", nullptr},
                              {"tool_calls",
                               {{{"id", "c"},
                                 {"type", "function"},
                                 {"function", {{"name", "get_weather"}, {"arguments", "{\"city\": \"Paris\"}"}}}}}}});
  body["messages"].push_back({{"role", "tool"}, {"tool_call_id", "c"}, {"content", "18 C <|im_end|>"}});
  client.Post("/v1/chat/completions", body.dump());
  const Request request = rig.engine.Await(0);
  const std::string prompt = TestText().tokenizer->Decode(request.prompt, true);
  EXPECT_THAT(prompt, HasSubstr("{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"parameters\":"));
  EXPECT_THAT(
      prompt,
      HasSubstr("<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\"}}\n</tool_call>"));
  EXPECT_THAT(prompt, HasSubstr("<tool_response>\n18 C <|im_end|>\n</tool_response>"));
  const int32_t end = *TestText().tokenizer->Find("<|im_end|>");
  EXPECT_EQ(std::count(request.prompt.begin(), request.prompt.end(), end), 4);  // none is the tool's
  rig.Say(0, "Mild.");
  EXPECT_EQ(Json::parse(client.Read().body)["choices"][0]["finish_reason"], "stop");
}

TEST(HttpToolsTest, AModelWithoutASyntaxRefusesTools) {
  IntakeRig rig;
  Metrics metrics("tiny");
  auto front = HttpFront::Listen({}, rig.intake, metrics);
  ASSERT_OK(front);
  HttpClient client((*front)->port());
  client.Post("/v1/chat/completions", Body(false).dump());
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(Json::parse(answer.body)["error"]["param"], "tools");
  EXPECT_THAT(answer.body, HasSubstr("http.tool_parser"));
}

TEST(HttpToolsTest, ThoughtHasItsOwnField) {
  for (const bool stream : {false, true}) {
    ToolRig rig(/*thinks=*/true);
    HttpClient client(rig.front->port());
    for (size_t i = 0; const bool shown : {true, false}) {
      Json body = Body(stream);
      body.erase("tools");
      body["include_reasoning"] = shown;
      client.Post("/v1/chat/completions", body.dump());
      rig.Say(i++, "<think>\nHm, so.\n</think>\n\nYes.");
      const HttpAnswer answer = client.Read();
      std::string thought, text;
      const auto take = [&](const Json& message) {
        EXPECT_EQ(message.value("reasoning", ""), message.value("reasoning_content", ""));
        thought += message.value("reasoning_content", "");
        text += message.value("content", "");
      };
      if (stream) {
        for (const Json& event : Events(answer)) take(event["choices"][0]["delta"]);
      } else {
        take(Json::parse(answer.body)["choices"][0]["message"]);
      }
      EXPECT_EQ(thought, shown ? "Hm, so." : "");
      EXPECT_EQ(text, "Yes.");
    }
  }
}

}  // namespace
}  // namespace interlace
