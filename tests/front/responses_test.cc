// OpenAI's protocol of responses: bodies to the internal request, deltas to events.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/entropy.h"
#include "coordinator/front/responses_answer.h"
#include "coordinator/front/responses_json.h"
#include "tests/front/http_rig.h"

namespace interlace {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

const ChatInput& InputOf(const ApiRequest& request) { return std::get<ChatInput>(request.spec.prompts.at(0)); }

TEST(ParseResponsesTest, AText) {
  const absl::StatusOr<ApiRequest> request =
      ParseResponses(R"({"model":"m","input":"hi","instructions":"Be brief.","max_output_tokens":9,"store":true})");
  ASSERT_OK(request);
  EXPECT_EQ(request->protocol, Protocol::kResponses);
  EXPECT_EQ(request->spec.max_tokens, 9);
  EXPECT_EQ(InputOf(*request).messages, R"([{"role":"system","content":"Be brief."},{"role":"user","content":"hi"}])");
  EXPECT_EQ(Json::parse(request->echoed)["instructions"], "Be brief.");
}

TEST(ParseResponsesTest, ItemsOfOneTurnAreOneMessage) {
  const absl::StatusOr<ApiRequest> request = ParseResponses(R"({"input":[
      {"role":"user","content":[{"type":"input_text","text":"w?"}]},
      {"type":"reasoning","id":"rs","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]},
      {"type":"message","role":"assistant","content":[{"type":"output_text","text":"ok","annotations":[]}]},
      {"type":"function_call","call_id":"c1","name":"f","arguments":"{\"a\": 1}"},
      {"type":"function_call","call_id":"c2","name":"g","arguments":""},
      {"type":"function_call_output","call_id":"c1","output":"3"},
      {"type":"function_call_output","call_id":"c2","output":[{"type":"input_text","text":"4"}]}],
      "tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":true}],"parallel_tool_calls":false})");
  ASSERT_OK(request);
  EXPECT_EQ(
      InputOf(*request).messages,
      R"([{"role":"user","content":"w?"},{"role":"assistant","content":"ok","reasoning_content":"hm","tool_calls":[)"
      R"({"id":"c1","type":"function","function":{"name":"f","arguments":{"a": 1}}},)"
      R"({"id":"c2","type":"function","function":{"name":"g","arguments":{}}}]},)"
      R"({"role":"tool","content":"3","tool_call_id":"c1"},{"role":"tool","content":"4","tool_call_id":"c2"}])");
  EXPECT_EQ(request->spec.tools, std::vector<std::string>{"f"});
  EXPECT_FALSE(request->spec.parallel_tool_calls);
}

TEST(ParseResponsesTest, BadFieldsAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"input", R"("model":"m")"},
      {"input", R"("input":[])"},
      {"input", R"("input":7)"},
      {"input[0]", R"("input":[7])"},
      {"input[0]", R"("input":[{"type":"web_search_call"}])"},
      {"input[0]", R"("input":[{"role":"user","content":[{"type":"input_image"}]}])"},
      {"input[0]", R"("input":[{"type":"function_call","name":"f"}])"},
      {"input[0]", R"("input":[{"type":"function_call","call_id":"c","name":"f","arguments":{"a":1}}])"},
      {"input[0]", R"("input":[{"type":"function_call","call_id":"c","name":"f","arguments":"{"}])"},
      {"input[0]", R"("input":[{"type":5,"role":"user","content":"a"}])"},
      {"tools", R"("input":"a","tools":[{"type":"function","name":"f","description":5}])"},
      {"tools", R"("input":"a","tools":[{"type":"web_search"}])"},
      {"tool_choice", R"("input":"a","tool_choice":"required")"},
      {"previous_response_id", R"("input":"a","previous_response_id":"resp_1")"},
      {"background", R"("input":"a","background":true)"},
      {"text.format", R"("input":"a","text":{"format":{"type":"odd"}})"},
      {"max_output_tokens", R"("input":"a","max_output_tokens":0)"},
      {"max_output_tokens", R"("input":"a","max_output_tokens":"9")"},
  };
  for (const auto& [field, body] : cases) {
    const absl::Status status = ParseResponses(absl::StrCat("{", body, "}")).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << body;
    EXPECT_EQ(ToApiError(status).param, field) << body;
  }
}

// Over random deltas: events are numbered without gaps, items are added, filled and done one after the other, and add
// up to the whole answer, which the last event has.
TEST(ResponsesAnswerTest, AStreamAddsUpToTheWholeAnswer) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(32);
  const ReplyHead head{Protocol::kResponses, "r", "m", 7, nullptr, R"({"tools":[],"temperature":0.5})"};
  for (int round = 0; round < 500; ++round) {
    ResponsesAnswer answer(head);
    ReplyChoice choice{.finish = entropy->Next() % 2 ? FinishReason::kStop : FinishReason::kLength};
    std::vector<OutputDelta> deltas;
    if (entropy->Next() % 2) deltas = {{.thought = "hm"}, {.thought = " so"}};
    for (int n = 1 + entropy->Next() % 3; n > 0; --n) deltas.push_back({.text = "text "});
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
    Json output = Json::array(), last;
    std::string content;
    for (size_t i = 0; i < events.size(); ++i) {
      const std::vector<std::string> lines = absl::StrSplit(events[i], '\n');
      const Json json = Json::parse(lines[1].substr(6));
      ASSERT_EQ(json["type"], lines[0].substr(7));
      ASSERT_EQ(json["sequence_number"], i);
      const std::string type = json["type"];
      if (type == "response.output_item.added") {
        ASSERT_EQ(json["output_index"], output.size());
        content.clear();
      }
      if (absl::EndsWith(type, ".delta")) content += json["delta"].get<std::string>();
      if (absl::EndsWith(type, "_text.done")) {
        ASSERT_EQ(json["text"], content);
      }
      if (absl::EndsWith(type, "arguments.done")) {
        ASSERT_EQ(json["arguments"], content);
      }
      if (type == "response.output_item.done") output.push_back(json["item"]);
      last = json;
    }
    const bool whole = choice.finish == FinishReason::kStop;
    ASSERT_EQ(last["type"], whole ? "response.completed" : "response.incomplete");
    ASSERT_EQ(last["response"]["output"], output);
    ASSERT_EQ(last["response"]["temperature"], 0.5);
    ASSERT_EQ(last["response"]["status"], whole ? "completed" : "incomplete");
    const std::vector<ReplyChoice> choices = {choice};
    ASSERT_EQ(last["response"], Json::parse(ResponsesAnswer(head).Whole(choices, {3, 2})));
  }
}

TEST(ResponsesHttpTest, ThroughTheDoor) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/responses", R"({"model":"tiny","input":"hi"})");
  Request request = rig.engine.Await(0);
  rig.Say(request, "Hello there");
  request.sink->OnEnd(EndOf(request, 2));
  const Json json = Json::parse(client.Read().body);
  EXPECT_EQ(json["object"], "response");
  EXPECT_EQ(json["output"][0]["content"][0]["text"], "Hello there");
  client.Post("/v1/responses", R"({"model":"tiny","input":"hi","stream":true})");
  request = rig.engine.Await(1);
  rig.Say(request, "Hel");
  request.sink->OnEnd(EndOf(request, 1, FinishReason::kStop, absl::UnavailableError("the rank is gone")));
  EXPECT_THAT(client.Read().body, HasSubstr("event: response.failed\n"));
}

// What an answer repeats is never taken apart: the time for it grows with its bytes alone.
TEST(ResponsesHttpTest, LargeFieldsAreRepeatedAsTheyAre) {
  HttpRig rig;
  HttpClient client(rig.port());
  std::string body = R"({"model":"tiny","input":"hi","metadata":{)";
  for (int i = 0; i < 300000; ++i) absl::StrAppend(&body, i > 0 ? "," : "", "\"k", i, "\":\"v\"");
  client.Post("/v1/responses", body + "}}");
  const Request request = rig.engine.Await(0);
  request.sink->OnEnd(EndOf(request, 0));
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 200);
  EXPECT_THAT(answer.body, HasSubstr(R"("k299999":"v")"));
  EXPECT_TRUE(nlohmann::json::accept(answer.body));
}

}  // namespace
}  // namespace interlace
