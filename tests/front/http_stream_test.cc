// Server-sent events: the bytes, when they come, and what happens when the client does not read them.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "coordinator/front/http_front.h"
#include "tests/front/http_rig.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// `created` is the only part that depends on the clock.
std::string WithoutTime(const std::string& event) {
  const size_t at = event.find("\"created\":");
  if (at == std::string::npos) return event;
  const size_t end = event.find(',', at);
  return event.substr(0, at) + "\"created\":0" + event.substr(end);
}

TEST(HttpStreamTest, AChatIsByteExact) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/chat/completions",
              R"({"messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}})",
              "x-request-id: r\r\n");
  const Request request = rig.engine.Await(0);
  rig.Say(request, " yes");
  const HttpAnswer head = client.ReadHead();
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-type"), "text/event-stream");
  EXPECT_EQ(head.headers.at("cache-control"), "no-cache");
  EXPECT_EQ(head.headers.at("transfer-encoding"), "chunked");
  EXPECT_EQ(head.headers.at("x-request-id"), "r");
  const std::string chunk =
      R"(data: {"id":"chatcmpl-r","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[)";
  // One chunk of the transfer coding for each event.
  EXPECT_EQ(WithoutTime(client.ReadChunk()),
            chunk + R"({"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]})" + "\n\n");
  EXPECT_EQ(WithoutTime(client.ReadChunk()),
            chunk + R"({"index":0,"delta":{"content":" yes"},"finish_reason":null}]})" + "\n\n");
  request.sink->OnEnd(EndOf(request, 1));
  EXPECT_EQ(WithoutTime(client.ReadChunk()), chunk + R"({"index":0,"delta":{},"finish_reason":"stop"}]})" + "\n\n");
  const std::string prompt = absl::StrCat(request.prompt.size()), total = absl::StrCat(request.prompt.size() + 2);
  EXPECT_EQ(WithoutTime(client.ReadChunk()), chunk + "],\"usage\":{\"prompt_tokens\":" + prompt +
                                                 ",\"completion_tokens\":2,\"total_tokens\":" + total +
                                                 ",\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n");
  EXPECT_EQ(client.ReadChunk(), "data: [DONE]\n\n");
  EXPECT_EQ(client.ReadChunk(), "");
  client.Get("/version");  // the connection lives on
  EXPECT_EQ(client.Read().status, 200);
}

// The text of a completion's stream.
std::string StreamedText(absl::string_view body) {
  std::string text;
  for (absl::string_view event : absl::StrSplit(body, "\n\n", absl::SkipEmpty())) {
    if (!absl::ConsumePrefix(&event, "data: {")) continue;
    text += Json::parse(absl::StrCat("{", event))["choices"][0]["text"].get<std::string>();
  }
  return text;
}

// Every rule a client relies on, over streams of random texts.
TEST(HttpStreamTest, RulesHoldForAnyText) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(6);
  const char* const letters[] = {"a", " b", "\n", "\r\n\r\n", "é", "漢字", "🙂", "data: [DONE]\n\n"};
  HttpRig rig;
  HttpClient client(rig.port());
  for (size_t round = 0; round < 60; ++round) {
    const bool continuous = entropy->Next() % 2, chat = entropy->Next() % 2;
    Json body{{"stream", true}, {"stream_options", {{"continuous_usage_stats", continuous}}}};
    if (chat) {
      body["messages"] = {{{"role", "user"}, {"content", "x"}}};
    } else {
      body["prompt"] = "x";
    }
    client.Post(chat ? "/v1/chat/completions" : "/v1/completions", body.dump());
    const Request request = rig.engine.Await(round);
    std::string text;
    for (int n = entropy->Next() % 20; n > 0; --n) text += letters[entropy->Next() % 8];
    rig.Say(request, text);
    request.sink->OnEnd(EndOf(request, rig.TokensOf(text)));
    const HttpAnswer answer = client.Read();
    ASSERT_FALSE(absl::StrContains(answer.body, '\r'));
    std::vector<std::string> events = absl::StrSplit(answer.body, "\n\n");
    ASSERT_EQ(events.back(), "");
    events.pop_back();
    ASSERT_EQ(events.back(), "data: [DONE]");
    events.pop_back();
    std::string out;
    int finishes = 0;
    for (size_t i = 0; i < events.size(); ++i) {
      ASSERT_TRUE(absl::StartsWith(events[i], "data: {")) << events[i];
      ASSERT_FALSE(absl::StrContains(events[i], '\n'));
      const Json json = Json::parse(events[i].substr(6));
      ASSERT_EQ(json["object"], chat ? "chat.completion.chunk" : "text_completion");
      ASSERT_EQ(json.contains("usage"), continuous);
      const Json& choice = json["choices"].at(0);
      const bool finish = !choice["finish_reason"].is_null();
      finishes += finish;
      ASSERT_EQ(finish, i + 1 == events.size());
      const std::string piece = chat ? choice["delta"].value("content", "") : choice["text"].get<std::string>();
      const bool may_be_empty = finish || (chat && i == 0);
      ASSERT_TRUE(may_be_empty || !piece.empty());
      out += piece;
    }
    EXPECT_EQ(finishes, 1);
    EXPECT_EQ(out, text);
  }
}

TEST(HttpStreamTest, ASilentStreamBeginsBeforeItsFirstTokenAndIsKeptAlive) {
  HttpRig rig({.first_write = absl::Milliseconds(5), .ping_interval = absl::Milliseconds(5)});
  HttpClient client(rig.port());
  client.Post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"hi"}],"stream":true})");
  const Request request = rig.engine.Await(0);
  EXPECT_EQ(client.ReadHead().status, 200);  // no token was made so far
  EXPECT_THAT(client.ReadChunk(), HasSubstr("\"role\":\"assistant\""));
  EXPECT_EQ(client.ReadChunk(), ": ping\n\n");
  EXPECT_EQ(client.ReadChunk(), ": ping\n\n");
  rig.Say(request, "yes");
  std::string chunk = client.ReadChunk();
  while (chunk == ": ping\n\n") chunk = client.ReadChunk();
  EXPECT_THAT(chunk, HasSubstr("\"content\":\"yes\""));
  EXPECT_EQ(client.ReadChunk(), ": ping\n\n");  // between tokens too
  request.sink->OnEnd(EndOf(request, 1, FinishReason::kStop, absl::UnavailableError("the rank is gone")));
  EXPECT_TRUE(absl::EndsWith(client.ReadThrough("[DONE]\n\n"), "data: [DONE]\n\n"));
}

TEST(HttpStreamTest, AnswersThatAStopCutsSaySo) {
  HttpRig rig;
  HttpClient begun(rig.port()), silent(rig.port()), whole(rig.port());
  begun.Post("/v1/completions", R"({"prompt":"a","stream":true})");
  const Request request = rig.engine.Await(0);
  rig.Say(request, "half");
  EXPECT_EQ(begun.ReadHead().status, 200);
  EXPECT_THAT(begun.ReadChunk(), HasSubstr("half"));
  silent.Post("/v1/completions", R"({"prompt":"a","stream":true})");
  rig.engine.Await(1);
  whole.Post("/v1/completions", R"({"prompt":"a"})");
  rig.engine.Await(2);
  Thread stopper("stopper", [&] { rig.front->Stop(absl::Milliseconds(20)); });
  EXPECT_THAT(begun.ReadChunk(), HasSubstr("{\"error\":{\"message\":\"the server stopped before"));
  EXPECT_EQ(begun.ReadChunk(), "data: [DONE]\n\n");
  EXPECT_EQ(begun.ReadChunk(), "");
  for (HttpClient* client : {&silent, &whole}) {
    const HttpAnswer answer = client->Read();
    EXPECT_EQ(answer.status, 503);
    EXPECT_EQ(answer.headers.at("retry-after"), "1");
  }
  for (HttpClient* client : {&begun, &silent, &whole}) client->Close();
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(rig.engine.AwaitCancel(rig.engine.Await(i).id));
}

TEST(HttpStreamTest, AFailureBeforeTheFirstTokenIsARealStatus) {
  HttpRig rig;
  HttpClient client(rig.port());
  const std::pair<absl::Status, int> cases[] = {{absl::UnavailableError("the rank is gone"), 503},
                                                {absl::DeadlineExceededError("late"), 504},
                                                {absl::DataLossError("corrupt"), 500},
                                                {absl::InternalError("broken"), 500}};
  for (size_t i = 0; i < 4; ++i) {
    client.Post("/v1/completions", R"({"prompt":"a","stream":true})");
    const Request request = rig.engine.Await(i);
    request.sink->OnEnd(EndOf(request, 0, FinishReason::kStop, cases[i].first));
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, cases[i].second);
    EXPECT_EQ(answer.headers.at("content-type"), "application/json");
    EXPECT_EQ(Json::parse(answer.body)["error"]["message"], std::string(cases[i].first.message()));
  }
}

TEST(HttpStreamTest, AFailureAfterItIsAnErrorEventAndTheEnd) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/completions", R"({"prompt":"a","stream":true,"stream_options":{"include_usage":true}})");
  const Request request = rig.engine.Await(0);
  rig.Say(request, "half");
  EXPECT_EQ(client.ReadHead().status, 200);
  EXPECT_THAT(client.ReadChunk(), HasSubstr("half"));
  request.sink->OnEnd(EndOf(request, 1, FinishReason::kStop, absl::UnavailableError("the rank is gone")));
  EXPECT_EQ(
      client.ReadChunk(),
      "data: {\"error\":{\"message\":\"the rank is gone\",\"type\":\"server_error\",\"param\":null,\"code\":null}}"
      "\n\n");
  EXPECT_EQ(client.ReadChunk(), "data: [DONE]\n\n");
  EXPECT_EQ(client.ReadChunk(), "");
}

TEST(HttpStreamTest, AStopStringEndsTheStreamAndTheRequest) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/completions", R"({"prompt":"a","stream":true,"stop":["END","漢"]})");
  const Request request = rig.engine.Await(0);
  rig.Say(request, "one E two 漢 three");
  const HttpAnswer answer = client.Read();  // ends without the engine's OnEnd
  EXPECT_TRUE(rig.engine.AwaitStop(request.id));
  EXPECT_EQ(StreamedText(answer.body), "one E two ");
  EXPECT_THAT(answer.body, HasSubstr("\"finish_reason\":\"stop\""));
}

TEST(HttpStreamTest, AClientThatGoesAwayCancels) {
  HttpRig rig;
  for (size_t round = 0; round < 6; ++round) {
    HttpClient client(rig.port());
    const bool stream = round % 2, begun = round >= 2, behind = round >= 4;
    client.Post("/v1/completions", absl::StrCat(R"({"prompt":"a","stream":)", stream ? "true}" : "false}"));
    const Request request = rig.engine.Await(round);
    if (begun) rig.Say(request, "x");
    if (begun && stream) {
      EXPECT_EQ(client.ReadHead().status, 200);
    }
    if (behind) client.Get("/health");  // a pipelined request is no reason not to look
    client.Close();
    EXPECT_TRUE(rig.engine.AwaitCancel(request.id)) << round;
    request.sink->OnEnd(EndOf(request, 0, FinishReason::kStop, absl::CancelledError("")));
  }
}

TEST(HttpStreamTest, AReaderThatDoesNotReadIsCancelledOneThatDoesIsNot) {
  HttpRig rig;
  HttpClient slow(rig.port(), /*receive_buffer=*/4096), fast(rig.port());
  slow.Post("/v1/completions", R"({"prompt":"a","stream":true})");
  const Request stuck = rig.engine.Await(0);
  fast.Post("/v1/completions", R"({"prompt":"a","stream":true})");
  const Request fine = rig.engine.Await(1);
  const int32_t token = TestText().tokenizer->Encode(" word", false).at(0);
  std::string body;
  int64_t sent = 0;
  while (!rig.engine.cancelled(stuck.id)) {
    ASSERT_LT(sent, 2'000'000) << "the backlog is not bounded";
    for (int i = 0; i < 500; ++i) stuck.sink->OnTokens({token});
    fine.sink->OnTokens({token});
    sent += 500;
    if (sent == 500) {
      EXPECT_EQ(fast.ReadHead().status, 200);
    }
    EXPECT_THAT(fast.ReadChunk(), HasSubstr(" word"));  // paces the loop; the loop thread is alive
  }
  EXPECT_FALSE(rig.engine.cancelled(fine.id));
  fine.sink->OnEnd(EndOf(fine, 1));
  EXPECT_THAT(fast.ReadChunk(), HasSubstr("finish_reason"));
}

TEST(HttpStreamTest, Http10GetsAStreamThatEndsWithTheConnection) {
  HttpRig rig;
  HttpClient client(rig.port());
  const std::string body = R"({"prompt":"a","stream":true})";
  client.Send(absl::StrCat("POST /v1/completions HTTP/1.0\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  const Request request = rig.engine.Await(0);
  rig.Say(request, "old");
  request.sink->OnEnd(EndOf(request, 1));
  const HttpAnswer head = client.ReadHead();
  EXPECT_EQ(head.headers.count("transfer-encoding"), 0u);
  EXPECT_TRUE(absl::EndsWith(client.ReadThrough("[DONE]\n\n"), "data: [DONE]\n\n"));
}

int ThreadsOfThisProcess() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) count += entry.is_directory();
  return count;
}

TEST(HttpStreamTest, ManyStreamsShareOneThread) {
  HttpRig rig;
  HttpClient first(rig.port());
  first.Get("/health");
  EXPECT_EQ(first.Read().status, 200);
  const int threads = ThreadsOfThisProcess();
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::make_unique<HttpClient>(rig.port()));
    clients.back()->Post("/v1/completions", R"({"prompt":"a","stream":true})",
                         absl::StrCat("x-request-id: c", i, "\r\n"));
  }
  rig.engine.Await(199);  // all are open
  EXPECT_EQ(ThreadsOfThisProcess(), threads);
  for (const size_t half : {0, 1}) {  // the streams take turns
    for (size_t i = 0; i < 200; ++i) {
      const Request request = rig.engine.Await(i);
      rig.Say(request, half == 0 ? request.name : " and on");
      if (half == 1) request.sink->OnEnd(EndOf(request, 1));
    }
  }
  EXPECT_EQ(ThreadsOfThisProcess(), threads);
  for (int i = 0; i < 200; ++i) {
    const HttpAnswer answer = clients[i]->Read();
    EXPECT_THAT(answer.body, HasSubstr(absl::StrCat("\"id\":\"cmpl-c", i, "\"")));
    EXPECT_TRUE(absl::EndsWith(answer.body, "data: [DONE]\n\n"));
    EXPECT_EQ(StreamedText(answer.body), absl::StrCat("c", i, " and on"));
  }
}

}  // namespace
}  // namespace interlace
