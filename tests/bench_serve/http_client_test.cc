// The HTTP client against servers that do every wrong thing: each is counted as what it is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/bench_serve/client_rig.h"
#include "tests/bench_serve/scripted_server.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

struct Completions : ClientRig {
  explicit Completions(ScriptedServer& server, LoadClientOptions options = {})
      : ClientRig("openai-completions", With(std::move(options), server)) {}
  static LoadClientOptions With(LoadClientOptions options, ScriptedServer& server) {
    options.url = server.url();
    return options;
  }
};

TEST(HttpClient, AWholeAnswer) {
  ScriptedServer server({Bytes(WholeStream(4))});
  Completions rig(server);
  const RequestRecord record = rig.Send(Ask());
  EXPECT_EQ(record.outcome, LoadOutcome::kOk) << record.error;
  EXPECT_EQ(record.http_status, 200);
  EXPECT_EQ(record.finish_reason, "length");
  EXPECT_EQ(record.prompt_tokens, 7);
  EXPECT_EQ(record.completion_tokens, 4);
  EXPECT_EQ(record.cached_tokens, 2);
  EXPECT_THAT(record.chunk_tokens, ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(record.chunks, Each(::testing::Ge(record.sent)));
  EXPECT_GE(record.ended, record.chunks.back());
  ASSERT_THAT(rig.first_tokens, SizeIs(1));
  EXPECT_EQ(rig.first_tokens[0], record.chunks[0] - record.sent);
  EXPECT_EQ(rig.client->tokens(), 4);
}

TEST(HttpClient, WhatIsSent) {
  ScriptedServer server({Bytes(WholeStream(4))});
  LoadClientOptions options;
  options.api_key = "secret";
  options.model = "tiny";
  options.name = "run";
  Completions rig(server, options);
  PlannedRequest request = Ask(3, 9);
  request.ignore_eos = true;
  request.priority = 2;
  request.tenant = "free";
  request.targets = {.ttft = absl::Seconds(1), .tpot = absl::Milliseconds(50), .largest_gap = absl::Seconds(2)};
  rig.SendInTurn({request, Ask(4)});
  const std::string full = server.requests()[0], plain = server.requests()[1];
  for (const char* header : {"POST /v1/completions HTTP/1.1\r\n", "Authorization: Bearer secret\r\n",
                             "X-Request-Id: run-3\r\n", "x-llm-d-slo-ttft-ms: 1000\r\n", "x-llm-d-slo-tpot-ms: 50\r\n",
                             "x-llm-d-slo-largest-gap-ms: 2000\r\n", "x-llm-d-inference-fairness-id: free\r\n"}) {
    EXPECT_THAT(full, HasSubstr(header));
  }
  const auto body = nlohmann::json::parse(full.substr(full.find("\r\n\r\n") + 4));
  EXPECT_EQ(body["model"], "tiny");
  EXPECT_EQ(body["prompt"], nlohmann::json({5, 6, 7}));
  EXPECT_EQ(body["max_tokens"], 9);
  EXPECT_EQ(body["priority"], 2);
  EXPECT_EQ(body["ignore_eos"], true);
  EXPECT_EQ(body["stream_options"]["include_usage"], true);
  // What is not asked for is not sent: a server may refuse fields that it does not know.
  EXPECT_THAT(plain, Not(HasSubstr("slo")));
  EXPECT_THAT(plain, AllOf(Not(HasSubstr("priority")), Not(HasSubstr("ignore_eos")), Not(HasSubstr("continuous"))));
}

TEST(HttpClient, AChatSpeaksInDeltas) {
  const std::string body = HttpChunk(Event(R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]})")) +
                           HttpChunk(Event(R"({"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]})")) +
                           HttpChunk(Event(R"({"choices":[{"index":0,"delta":{"content":" yes"}}]})")) +
                           HttpChunk(Event(R"({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]})")) +
                           HttpChunk(DoneEvent());
  ScriptedServer server({Bytes(StreamHead() + body + LastHttpChunk())});
  LoadClientOptions options;
  options.url = server.url();
  options.save_texts = true;
  ClientRig rig("openai-chat", options);
  PlannedRequest request;
  request.messages = {{"user", "is it?"}};
  const RequestRecord record = rig.Send(request);
  EXPECT_EQ(record.outcome, LoadOutcome::kOk) << record.error;
  EXPECT_EQ(record.text, " yes") << "reasoning is no part of what the next turn repeats";
  EXPECT_THAT(record.chunks, SizeIs(2)) << "reasoning is a delivery, an empty one is none";
  EXPECT_THAT(server.requests()[0], HasSubstr("POST /v1/chat/completions "));
}

TEST(HttpClient, ConnectionsAreUsedAgain) {
  ScriptedServer server({Bytes(WholeStream(2))});
  Completions rig(server);
  std::vector<PlannedRequest> requests;
  for (int i = 0; i < 20; ++i) requests.push_back(Ask(i));
  for (const RequestRecord& record : rig.SendInTurn(requests)) EXPECT_EQ(record.outcome, LoadOutcome::kOk);
  EXPECT_EQ(server.connections(), 1);
}

TEST(HttpClient, AConnectionThatTheServerClosedWhileItWasIdleCostsNoRequest) {
  ScriptedServer server({Bytes(WholeStream(2)), CloseNow()});  // keep-alive by its head, and closed all the same
  Completions rig(server);
  std::vector<PlannedRequest> requests;
  for (int i = 0; i < 10; ++i) requests.push_back(Ask(i));
  for (const RequestRecord& record : rig.SendInTurn(requests))
    EXPECT_EQ(record.outcome, LoadOutcome::kOk) << record.error;
  EXPECT_EQ(server.requests().size(), 10u);
}

TEST(HttpClient, WhatNobodyAskedForIsNoAnswerToTheNextRequest) {
  ScriptedServer server([](const std::string&, int number) -> std::vector<ServerStep> {
    return {Bytes(number == 0 ? WholeStream(1) + WholeStream(9) : WholeStream(2))};
  });
  Completions rig(server);
  const std::vector<RequestRecord> records = rig.SendInTurn({Ask(0), Ask(1)});
  EXPECT_EQ(records[0].completion_tokens, 1);
  EXPECT_EQ(records[1].completion_tokens, 2);
  EXPECT_EQ(server.connections(), 2);
}

TEST(HttpClient, ManyAtOnce) {
  ScriptedServer server({Bytes(WholeStream(3))});
  Completions rig(server);
  std::vector<PlannedRequest> requests;
  for (int i = 0; i < 200; ++i) requests.push_back(Ask(i));
  const std::vector<RequestRecord> records = rig.SendAll(requests);
  EXPECT_THAT(records, SizeIs(200));
  for (const RequestRecord& record : records) EXPECT_EQ(record.outcome, LoadOutcome::kOk) << record.error;
}

struct Wrong {
  const char* name;
  std::vector<ServerStep> steps;
  LoadOutcome outcome;
  const char* error;  // part of the text for people
  int chunks = 0;
};

class WrongServers : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongServers, AreCountedAsWhatTheyAre) {
  ScriptedServer server(GetParam().steps);
  LoadClientOptions options;
  options.timeout = absl::Milliseconds(300);
  Completions rig(server, options);
  const RequestRecord record = rig.Send(Ask());
  EXPECT_EQ(LoadOutcomeName(record.outcome), LoadOutcomeName(GetParam().outcome)) << record.error;
  EXPECT_THAT(record.error, HasSubstr(GetParam().error));
  EXPECT_THAT(record.chunks, SizeIs(GetParam().chunks));
  EXPECT_EQ(record.completion_tokens, GetParam().chunks);
  EXPECT_GE(record.ended, record.sent);
}

const std::string kHalf = StreamHead() + HttpChunk(TextEvent("a")) + HttpChunk(TextEvent("b"));

INSTANTIATE_TEST_SUITE_P(
    All, WrongServers,
    ::testing::Values(
        Wrong{"NeverAnswers", {Stall()}, LoadOutcome::kTimeout, "--timeout"},
        Wrong{"StallsWithinTheHead", {Bytes("HTTP/1.1 200 O"), Stall()}, LoadOutcome::kTimeout, "--timeout"},
        Wrong{"StallsAfterTheHead", {Bytes(StreamHead()), Stall()}, LoadOutcome::kTimeout, "--timeout"},
        Wrong{"StallsWithinTheStream", {Bytes(kHalf), Stall()}, LoadOutcome::kTimeout, "--timeout", 2},
        Wrong{"PingsForever",
              {Bytes(StreamHead() + HttpChunk(": ping\n\n")), Stall()},
              LoadOutcome::kTimeout,
              "--timeout"},
        Wrong{"StallsWithinAnErrorBody",
              {Bytes("HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nab"), Stall()},
              LoadOutcome::kTimeout,
              "--timeout"},
        Wrong{"Closes", {CloseNow()}, LoadOutcome::kTruncated, "before any answer"},
        Wrong{"Resets", {ResetNow()}, LoadOutcome::kTruncated, "before any answer"},
        Wrong{"ClosesWithinTheStream", {Bytes(kHalf), CloseNow()}, LoadOutcome::kTruncated, "within the stream", 2},
        Wrong{"ResetsWithinTheStream", {Bytes(kHalf), ResetNow()}, LoadOutcome::kTruncated, "", 2},
        Wrong{"EndsWithoutDone",
              {Bytes(kHalf + HttpChunk(FinishEvent()) + LastHttpChunk())},
              LoadOutcome::kTruncated,
              "[DONE]",
              2},
        Wrong{"DoneWithoutFinish",
              {Bytes(kHalf + HttpChunk(DoneEvent()) + LastHttpChunk())},
              LoadOutcome::kTruncated,
              "finish_reason",
              2},
        Wrong{"DoneAndNothingElse",
              {Bytes(StreamHead() + HttpChunk(DoneEvent()) + LastHttpChunk())},
              LoadOutcome::kTruncated,
              "finish_reason"},
        Wrong{"AnEmptyStream", {Bytes(StreamHead() + LastHttpChunk())}, LoadOutcome::kTruncated, "[DONE]"},
        Wrong{"ErrorWithinTheStream",
              {Bytes(kHalf + HttpChunk(Event(R"({"error":{"message":"out of memory"}})")) + HttpChunk(DoneEvent()) +
                     LastHttpChunk())},
              LoadOutcome::kFailed,
              "out of memory",
              2},
        Wrong{"ErrorAsText",
              {Bytes(kHalf + HttpChunk(Event(R"({"error":"gone"})")) + LastHttpChunk())},
              LoadOutcome::kFailed,
              "gone",
              2},
        Wrong{"ErrorAsVllmOnceSpeltIt",
              {Bytes(kHalf + HttpChunk(Event(R"({"object":"error","message":"bad","code":400})")) + LastHttpChunk())},
              LoadOutcome::kFailed,
              "bad",
              2},
        Wrong{"NoHttp", {Bytes("SSH-2.0-OpenSSH_9.2\r\n\r\n"), CloseNow()}, LoadOutcome::kGarbage, "not HTTP"},
        Wrong{"BinaryHead",
              {Bytes(std::string("\x00\x01\x02\xff\xfe garbage\r\n\r\n", 17)), CloseNow()},
              LoadOutcome::kGarbage,
              "not HTTP"},
        Wrong{"EventsThatAreNoJson",
              {Bytes(kHalf + HttpChunk("data: {\"choices\":\n\n"))},
              LoadOutcome::kGarbage,
              "not JSON",
              2},
        Wrong{"LinesThatAreNoEvents",
              {Bytes(kHalf + HttpChunk("<html>Bad gateway</html>\n\n"))},
              LoadOutcome::kGarbage,
              "no event",
              2},
        Wrong{"EventsOfAnotherProtocol",
              {Bytes(kHalf + HttpChunk(Event("{\"type\":\"ping\"}")))},
              LoadOutcome::kGarbage,
              "neither choices nor usage",
              2},
        Wrong{"ChunksThatAreNone", {Bytes(kHalf + "zz\r\n" + TextEvent("c"))}, LoadOutcome::kGarbage, "not HTTP", 2},
        Wrong{"AWholeAnswer",
              {Bytes(WholeReply("200 OK", R"({"choices":[{"text":"a"}]})"))},
              LoadOutcome::kGarbage,
              "application/json"},
        Wrong{"AWebPage",
              {Bytes("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")},
              LoadOutcome::kGarbage,
              "text/html"},
        Wrong{"Refuses",
              {Bytes(WholeReply("400 Bad Request", R"({"error":{"message":"prompt is too long"}})"))},
              LoadOutcome::kRefused,
              "400: prompt is too long"},
        Wrong{
            "HasAFault", {Bytes(WholeReply("500 Internal Server Error", "oops"))}, LoadOutcome::kRefused, "500: oops"},
        Wrong{"RefusesAndCloses",
              {Bytes("HTTP/1.1 404 No\r\nContent-Length: 90\r\n\r\nhalf"), CloseNow()},
              LoadOutcome::kRefused,
              "404: half"},
        Wrong{"Sheds",
              {Bytes(WholeReply("429 Too Many Requests", R"({"error":{"message":"queue is full"}})"))},
              LoadOutcome::kShed,
              "queue is full"},
        Wrong{"IsNotReady", {Bytes(WholeReply("503 Service Unavailable", ""))}, LoadOutcome::kShed, ""}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(HttpClient, SaysWhenToAskAgain) {
  ScriptedServer server([](const std::string&, int number) -> std::vector<ServerStep> {
    return {Bytes(WholeReply("429 Too Many Requests", "{}",
                             number == 0   ? "Retry-After: 3\r\n"
                             : number == 1 ? "Retry-After: 3\r\nretry-after-ms: 250\r\n"
                                           : ""))};
  });
  Completions rig(server);
  const std::vector<RequestRecord> records = rig.SendInTurn({Ask(0), Ask(1), Ask(2)});
  EXPECT_EQ(records[0].retry_after, absl::Seconds(3));
  EXPECT_EQ(records[1].retry_after, absl::Milliseconds(250));
  EXPECT_EQ(records[2].retry_after, absl::ZeroDuration());
  EXPECT_EQ(server.connections(), 1) << "a refusal leaves the connection as it is";
}

TEST(HttpClient, NobodyListens) {
  std::string url;
  {
    ScriptedServer gone({CloseNow()});
    url = gone.url();
  }
  LoadClientOptions options;
  options.url = url;
  ClientRig rig("openai-completions", options);
  const RequestRecord record = rig.Send(Ask());
  EXPECT_EQ(record.outcome, LoadOutcome::kNoConnection);
  EXPECT_EQ(record.http_status, 0);
}

TEST(HttpClient, OneWrongAnswerHarmsNoOther) {
  ScriptedServer server([](const std::string& request, int) -> std::vector<ServerStep> {
    const size_t at = request.find("X-Request-Id: t-");
    switch (request[at + 16] % 4) {
      case 0:
        return {Bytes(kHalf), ResetNow()};
      case 1:
        return {Stall()};
      case 2:
        return {Bytes("garbage\r\n\r\n")};
      default:
        return {Bytes(WholeStream(3))};
    }
  });
  LoadClientOptions options;
  options.timeout = absl::Seconds(1);
  Completions rig(server, options);
  std::vector<PlannedRequest> requests;
  for (int i = 0; i < 40; ++i) requests.push_back(Ask(i));
  const std::vector<RequestRecord> records = rig.SendAll(requests);
  ASSERT_THAT(records, SizeIs(40));
  for (const RequestRecord& record : records) {
    constexpr LoadOutcome kExpected[] = {LoadOutcome::kTruncated, LoadOutcome::kTimeout, LoadOutcome::kGarbage,
                                         LoadOutcome::kOk};
    const int kind = absl::StrCat(record.index)[0] % 4;
    EXPECT_EQ(record.outcome, kExpected[kind]) << record.index << " " << record.error;
  }
}

TEST(HttpClient, HangsUpAsPlanned) {
  ScriptedServer server({Bytes(kHalf), Stall()});
  Completions rig(server);
  PlannedRequest request = Ask();
  request.cancel_after_tokens = 2;
  const RequestRecord record = rig.Send(request);
  EXPECT_EQ(record.outcome, LoadOutcome::kCancelled);
  EXPECT_THAT(record.error, IsEmpty());
  EXPECT_EQ(record.completion_tokens, 2);
}

TEST(HttpClient, GivesUpWhatIsOpen) {
  ScriptedServer server({Bytes(kHalf), Stall()});
  Completions rig(server);
  struct Stopper : LoadSink {
    explicit Stopper(ClientRig& r) : rig(r) {}
    void OnFirstToken(const PlannedRequest&, absl::Duration) override {
      rig.loop.Post([this] { rig.client->HangUp("enough"); });
    }
    void OnEnd(const PlannedRequest& request, RequestRecord record) override {
      records.push_back(std::move(record));
      if (records.size() == 2) rig.loop.Stop();
    }
    ClientRig& rig;
    std::vector<RequestRecord> records;
  } stopper(rig);
  const PlannedRequest a = Ask(0), b = Ask(1);
  rig.loop.Post([&] {
    rig.client->Send(a, stopper);
    rig.client->Send(b, stopper);
  });
  rig.loop.Run();
  for (const RequestRecord& record : stopper.records) {
    EXPECT_EQ(record.outcome, LoadOutcome::kTimeout);
    EXPECT_EQ(record.error, "enough");
  }
}

TEST(HttpClient, ASlowTrickleIsReadByteForByte) {
  std::vector<ServerStep> steps;
  for (char c : WholeStream(3)) steps.push_back(Bytes(std::string(1, c)));
  ScriptedServer server(steps);
  Completions rig(server);
  const RequestRecord record = rig.Send(Ask());
  EXPECT_EQ(record.outcome, LoadOutcome::kOk) << record.error;
  EXPECT_EQ(record.completion_tokens, 3);
  EXPECT_TRUE(std::is_sorted(record.chunks.begin(), record.chunks.end()));
}

TEST(HttpClient, AServerThatStallsBehindDoneHasAnswered) {
  ScriptedServer server({Bytes(kHalf + HttpChunk(FinishEvent()) + HttpChunk(DoneEvent())), Stall()});
  LoadClientOptions options;
  options.timeout = absl::Seconds(30);
  Completions rig(server, options);
  EXPECT_EQ(rig.Send(Ask()).outcome, LoadOutcome::kOk);
}

TEST(HttpClient, ABodyMayEndWithItsConnection) {
  ScriptedServer server({Bytes("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + TextEvent("a") +
                               FinishEvent() + DoneEvent()),
                         CloseNow()});
  Completions rig(server);
  EXPECT_EQ(rig.Send(Ask()).outcome, LoadOutcome::kOk);
}

TEST(HttpClient, AsksForTheModel) {
  ScriptedServer server({Bytes(WholeReply("200 OK", R"({"object":"list","data":[{"id":"llama"},{"id":"other"}]})"))});
  AsioLoop loop;
  LoadClientOptions options;
  options.url = server.url() + "/base/v1/";
  const auto client = MakeLoadClient("openai-chat", options, loop);
  ASSERT_OK(client);
  const auto model = (*client)->Prepare();
  ASSERT_OK(model);
  EXPECT_EQ(*model, "llama");
  EXPECT_THAT(server.requests()[0], HasSubstr("GET /base/v1/models HTTP/1.1\r\n"));
}

TEST(HttpClient, SaysWhatIsWrongWithAServerBeforeTheRun) {
  for (const auto& [steps, part] : std::vector<std::pair<std::vector<ServerStep>, std::string>>{
           {{CloseNow()}, "--url"},
           {{Bytes("no http at all\r\n\r\n")}, "--url"},
           {{Bytes(WholeReply("401 Unauthorized", R"({"error":{"message":"no key"}})"))}, "no key"},
           {{Bytes(WholeReply("200 OK", R"({"data":[]})"))}, "--model"},
           {{Bytes(WholeReply("200 OK", R"({"data":[3]})"))}, "--model"},
           {{Bytes(WholeReply("200 OK", "<html>"))}, "--model"}}) {
    ScriptedServer server(steps);
    AsioLoop loop;
    LoadClientOptions options;
    options.url = server.url();
    const auto client = MakeLoadClient("openai-chat", options, loop);
    ASSERT_OK(client);
    EXPECT_THAT(std::string((*client)->Prepare().status().message()), HasSubstr(part));
  }
}

TEST(HttpClient, UrlsThatAreNone) {
  for (const char* url :
       {"https://127.0.0.1:1", "ftp://a", "", "http://", "http://a:99999", "http://a:x", "http://a b"}) {
    AsioLoop loop;
    LoadClientOptions options;
    options.url = url;
    EXPECT_THAT(MakeLoadClient("openai-chat", options, loop).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("--url"), HasSubstr("http://HOST:PORT"))))
        << url;
  }
}

}  // namespace
}  // namespace interlace
