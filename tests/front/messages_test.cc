// Anthropic's protocol: bodies to the internal request, deltas to events.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/entropy.h"
#include "coordinator/front/messages_answer.h"
#include "coordinator/front/messages_json.h"
#include "tests/front/http_rig.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const ChatInput& InputOf(const ApiRequest& request) { return std::get<ChatInput>(request.spec.prompts.at(0)); }

TEST(ParseMessagesTest, AConversationWithTools) {
  const absl::StatusOr<ApiRequest> request = ParseMessages(R"({"model":"m","max_tokens":9,"stream":true,
      "system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}],"stop_sequences":["END"],
      "temperature":0.5,"top_k":3,"metadata":{"user_id":"u"},"tool_choice":{"type":"auto","disable_parallel_tool_use":true},
      "tools":[{"name":"f","description":"d","input_schema":{"type":"object"}}],
      "messages":[{"role":"user","content":"hi"},
        {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":""},{"type":"text","text":"ok"},
          {"type":"tool_use","id":"t1","name":"f","input":{"a":1}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"3"}]},
          {"type":"text","text":"and?"}]}]})");
  ASSERT_OK(request);
  EXPECT_EQ(request->protocol, Protocol::kMessages);
  EXPECT_TRUE(request->stream);
  EXPECT_EQ(request->spec.max_tokens, 9);
  EXPECT_EQ(request->spec.stop, std::vector<std::string>{"END"});
  EXPECT_FALSE(request->spec.parallel_tool_calls);
  EXPECT_EQ(InputOf(*request).messages,
            R"([{"role":"system","content":"Be brief."},{"role":"user","content":"hi"},)"
            R"({"role":"assistant","content":"ok","reasoning_content":"hm","tool_calls":[{"id":"t1","type":"function",)"
            R"("function":{"name":"f","arguments":{"a":1}}}]},{"role":"tool","content":"3","tool_call_id":"t1"},)"
            R"({"role":"user","content":"and?"}])");
  EXPECT_EQ(InputOf(*request).tools,
            R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}])");
  EXPECT_TRUE(InputOf(*request).add_generation_prompt);
}

TEST(ParseMessagesTest, AnAnswerThatIsBegunIsGoneOnWith) {
  const absl::StatusOr<ApiRequest> request = ParseMessages(
      R"({"max_tokens":9,"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]})");
  ASSERT_OK(request);
  EXPECT_TRUE(InputOf(*request).continue_final_message);
  EXPECT_FALSE(InputOf(*request).add_generation_prompt);
}

TEST(ParseMessagesTest, BadFieldsAreNamed) {
  const std::string user = R"("messages":[{"role":"user","content":"a"}])";
  const std::pair<std::string, std::string> cases[] = {
      {"max_tokens", user},
      {"messages", R"("max_tokens":1)"},
      {"messages.0", R"("max_tokens":1,"messages":[{"role":"system","content":"a"}])"},
      {"messages.0", R"("max_tokens":1,"messages":[7])"},
      {"messages.0", R"("max_tokens":1,"messages":[{"role":"user","content":[{"type":"image"}]}])"},
      {"messages.0", R"("max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result"}]}])"},
      {"messages.0",
       R"("max_tokens":1,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":5,"name":"f",)"
       R"("input":{}}]}])"},
      {"messages.0",
       R"("max_tokens":1,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f",)"
       R"("input":"x"}]}])"},
      {"tools", R"("max_tokens":1,"tools":[{"name":"w","description":5,"input_schema":{}}],)" + user},
      {"tools", R"("max_tokens":1,"tools":[{"type":"web_search_20250305","name":"w"}],)" + user},
      {"tools", R"("max_tokens":1,"tools":[{"name":"w"}],)" + user},
      {"tool_choice", R"("max_tokens":1,"tool_choice":{"type":"any"},)" + user},
      {"thinking", R"("max_tokens":1,"thinking":7,)" + user},
      {"n", R"("max_tokens":1,"n":2,)" + user},
  };
  for (const auto& [field, body] : cases) {
    const absl::Status status = ParseMessages("{" + body + "}").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body;
    EXPECT_EQ(ToApiError(status).param, field) << body;
  }
}

Json DataOf(const std::string& event) {
  const std::vector<std::string> lines = absl::StrSplit(event, '\n');
  EXPECT_TRUE(absl::StartsWith(lines[0], "event: ") && absl::StartsWith(lines[1], "data: ")) << event;
  const Json json = Json::parse(lines[1].substr(6));
  EXPECT_EQ(json["type"], lines[0].substr(7));
  return json;
}

TEST(MessagesAnswerTest, EventsAreByteExact) {
  MessagesAnswer answer({Protocol::kMessages, "r", "m", 7});
  EXPECT_THAT(
      answer.Begin(1, {5, 0, 2}),
      ElementsAre("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_r\",\"type\":"
                  "\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,"
                  "\"stop_sequence\":null,\"usage\":{\"input_tokens\":3,\"output_tokens\":0,"
                  "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":2}}}\n\n"));
  EXPECT_THAT(answer.Add(0, {.text = "hi"}, nullptr, {}),
              ElementsAre("event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,"
                          "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
                          "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
                          "{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n"));
  EXPECT_THAT(answer.Finish(0, {}, {}),
              ElementsAre("event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"));
  EXPECT_THAT(
      answer.End({5, 4, 0}),
      ElementsAre("event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\","
                  "\"stop_sequence\":null},\"usage\":{\"input_tokens\":5,\"output_tokens\":4,"
                  "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0}}\n\n",
                  "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));
}

// As the SDK puts a message together. Over random deltas, blocks are opened, filled and closed one after the other, and
// hold what the whole answer has.
TEST(MessagesAnswerTest, AStreamAddsUpToTheWholeAnswer) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(31);
  for (int round = 0; round < 500; ++round) {
    MessagesAnswer answer({Protocol::kMessages, "r", "m", 7});
    ReplyChoice choice;
    std::vector<OutputDelta> deltas;
    if (entropy->Next() % 2) deltas = {{.thought = "hm"}, {.thought = " so"}};
    for (int n = entropy->Next() % 3; n > 0; --n) deltas.push_back({.text = "text "});
    for (size_t call = 0; call < entropy->Next() % 4; ++call) {
      deltas.push_back({.calls = {{call, "f", "{\"a\":"}}});
      deltas.push_back({.calls = {{call, "", "1}"}}});
    }
    Answer::Events events = answer.Begin(1, {3, 0});
    for (const OutputDelta& delta : deltas) {
      Gather(delta, &choice);
      for (const std::string& event : answer.Add(0, delta, nullptr, {})) events.push_back(event);
    }
    for (const std::string& event : answer.Finish(0, choice, {})) events.push_back(event);
    for (const std::string& event : answer.End({3, 2})) events.push_back(event);
    Json message;
    std::string input;
    bool open = false;
    for (const std::string& event : events) {
      const Json json = DataOf(event);
      if (json["type"] == "message_start") message = json["message"];
      if (json["type"] == "content_block_start") {
        ASSERT_FALSE(open);
        ASSERT_EQ(json["index"], message["content"].size());
        message["content"].push_back(json["content_block"]);
        open = true;
        input.clear();
      }
      if (json["type"] == "content_block_delta") {
        ASSERT_TRUE(open && json["index"] == message["content"].size() - 1);
        Json& block = message["content"].back();
        const Json& delta = json["delta"];
        for (const char* field : {"text", "thinking"}) {
          if (delta.contains(field)) block[field] = block[field].get<std::string>() + delta[field].get<std::string>();
        }
        input += delta.value("partial_json", "");
      }
      if (json["type"] == "content_block_stop") {
        open = false;
        if (!input.empty()) message["content"].back()["input"] = Json::parse(input);
      }
      if (json["type"] == "message_delta") {
        message.update(json["delta"]);
        message["usage"] = json["usage"];
      }
    }
    ASSERT_FALSE(open);
    const std::vector<ReplyChoice> choices = {choice};
    ASSERT_EQ(message, Json::parse(MessagesAnswer({Protocol::kMessages, "r", "m", 7}).Whole(choices, {3, 2})));
  }
}

TEST(MessagesAnswerTest, ReasonsForTheEnd) {
  const auto reason = [](ReplyChoice choice) {
    const std::vector<ReplyChoice> choices = {std::move(choice)};
    return Json::parse(MessagesAnswer({Protocol::kMessages, "r", "m", 7}).Whole(choices, {}))["stop_reason"];
  };
  EXPECT_EQ(reason({}), "end_turn");
  EXPECT_EQ(reason({.finish = FinishReason::kLength}), "max_tokens");
  EXPECT_EQ(reason({.calls = {{0, "f", "{}"}}}), "tool_use");
  EXPECT_EQ(reason({.stop = "END"}), "stop_sequence");
}

TEST(MessagesHttpTest, ThroughTheDoor) {
  HttpRig rig;
  HttpClient client(rig.port());
  const char* const body =
      R"({"model":"tiny","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":true})";
  client.Post("/v1/messages", body);
  const Request request = rig.engine.Await(0);
  rig.Say(request, "Hello there");
  request.sink->OnEnd(EndOf(request, 2));
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.headers.at("content-type"), "text/event-stream");
  EXPECT_EQ(answer.headers.count("request-id"), 1u);
  EXPECT_TRUE(absl::StartsWith(answer.body, "event: message_start\n"));
  EXPECT_TRUE(absl::EndsWith(answer.body, "data: {\"type\":\"message_stop\"}\n\n"));
  client.Post("/v1/messages", R"({"model":"other","max_tokens":9,"messages":[{"role":"user","content":"hi"}]})");
  const HttpAnswer refused = client.Read();
  EXPECT_EQ(refused.status, 404);
  EXPECT_EQ(Json::parse(refused.body)["type"], "error");
  EXPECT_EQ(Json::parse(refused.body)["error"]["type"], "not_found_error");
  client.Post("/v1/messages/count_tokens", body);
  EXPECT_EQ(Json::parse(client.Read().body)["input_tokens"], request.prompt.size());
  client.Post("/v1/messages", body);
  const Request fails = rig.engine.Await(1);
  rig.Say(fails, "Hel");
  fails.sink->OnEnd(EndOf(fails, 1, FinishReason::kStop, absl::UnavailableError("the rank is gone")));
  EXPECT_THAT(client.Read().body,
              HasSubstr("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\""));
}

}  // namespace
}  // namespace interlace
