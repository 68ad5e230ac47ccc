// /debug/drain and /debug/resume, and what streams and new requests see of a drain.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/front/http_rig.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

Json JsonOf(const HttpAnswer& answer) { return Json::parse(answer.body, nullptr, false); }

// A front whose requests go through its gate.
struct DrainRig {
  DrainRig() {
    absl::StatusOr<std::unique_ptr<HttpFront>> listening = HttpFront::Listen({.gate = &gate}, intake, metrics);
    CHECK(listening.ok());
    front = *std::move(listening);
  }
  FakeEngine engine;
  RealClock clock;
  Metrics metrics{"tiny"};
  DrainGate gate{engine, clock, metrics};
  Intake intake{{.model = "tiny", .context = kTestContext, .layers = 30, .created = 1700000000},
                *TestText().tokenizer,
                TestText().chat_template.get(),
                gate,
                clock,
                MakeSeededEntropy(7)};
  std::unique_ptr<HttpFront> front;
};

constexpr char kStream[] = R"({"prompt":"a","stream":true})";
constexpr char kWhole[] = R"({"prompt":"a"})";

TEST(HttpDrainTest, WhatRunsFinishesAndWhatIsNewIsRefusedUntilResume) {
  DrainRig rig;
  HttpClient running(rig.front->port()), operator_(rig.front->port()), late(rig.front->port());
  running.Post("/v1/completions", kStream);
  const Request request = rig.engine.Await(0);
  request.sink->OnTokens({TestText().tokenizer->Encode("a", false)[0]});
  EXPECT_EQ(running.ReadHead().status, 200);

  operator_.Post("/debug/drain", "");
  const HttpAnswer drained = operator_.Read();
  EXPECT_EQ(drained.status, 200);
  EXPECT_EQ(JsonOf(drained), Json::parse(R"({"draining":true,"stopping":false,"requests_left":1,"requests_cut":0,
                                             "seconds_until_cut":null})"));
  for (const char* path : {"/ready", "/health"}) {
    late.Get(path);
    const HttpAnswer answer = late.Read();
    EXPECT_EQ(answer.status, 503) << path;
    EXPECT_EQ(JsonOf(answer)["status"], "draining");
  }
  late.Post("/v1/completions", kWhole);
  const HttpAnswer refused = late.Read();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.count("retry-after"), 1u);
  EXPECT_EQ(JsonOf(refused)["error"]["code"], "server_draining");
  EXPECT_THAT(refused.body, HasSubstr("draining"));

  request.sink->OnEnd(EndOf(request, 1));
  std::string rest;
  for (std::string chunk = running.ReadChunk(); !chunk.empty(); chunk = running.ReadChunk()) rest += chunk;
  EXPECT_THAT(rest, HasSubstr("\"finish_reason\":\"stop\""));
  EXPECT_THAT(rest, HasSubstr("[DONE]"));
  operator_.Get("/debug/drain");
  EXPECT_EQ(JsonOf(operator_.Read())["requests_left"], 0);

  operator_.Post("/debug/resume", "");
  EXPECT_EQ(JsonOf(operator_.Read())["draining"], false);
  late.Get("/ready");
  EXPECT_EQ(late.Read().status, 200);
  late.Post("/v1/completions", kWhole);
  const Request next = rig.engine.Await(1);
  next.sink->OnEnd(EndOf(next, 0));
  EXPECT_EQ(late.Read().status, 200);
}

TEST(HttpDrainTest, WhatTheTimeoutCutsEndsWithAnError) {
  DrainRig rig;
  HttpClient stream(rig.front->port()), whole(rig.front->port()), operator_(rig.front->port());
  stream.Post("/v1/completions", kStream);
  const Request streamed = rig.engine.Await(0);
  streamed.sink->OnTokens({TestText().tokenizer->Encode("a", false)[0]});
  EXPECT_EQ(stream.ReadHead().status, 200);
  whole.Post("/v1/completions", kWhole);
  rig.engine.Await(1);
  operator_.Post("/debug/drain", R"({"timeout_seconds":0.001})");
  EXPECT_EQ(operator_.Read().status, 200);
  for (size_t i = 0; i < 2; ++i) {
    const Request request = rig.engine.Await(i);
    ASSERT_TRUE(rig.engine.AwaitCancel(request.id));
    request.sink->OnEnd(EndOf(request, 1, FinishReason::kStop, absl::CancelledError("the client is gone")));
  }
  std::string events;
  for (std::string chunk = stream.ReadChunk(); !chunk.empty(); chunk = stream.ReadChunk()) events += chunk;
  EXPECT_THAT(events, HasSubstr("\"code\":\"server_stopping\""));
  EXPECT_THAT(events, HasSubstr("[DONE]"));
  const HttpAnswer cut = whole.Read();
  EXPECT_EQ(cut.status, 503);
  EXPECT_EQ(JsonOf(cut)["error"]["code"], "server_stopping");
  operator_.Get("/debug/drain");
  EXPECT_EQ(JsonOf(operator_.Read())["requests_cut"], 2);
}

TEST(HttpDrainTest, RefusesWhatItCannotReadAndThePagesOfBrowsers) {
  DrainRig rig;
  HttpClient client(rig.front->port());
  const auto refused = [&](absl::string_view path, absl::string_view body, absl::string_view headers, int status,
                           absl::string_view why) {
    client.Post(path, body, headers);
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, status) << body;
    EXPECT_THAT(answer.body, HasSubstr(std::string(why))) << body;
  };
  refused("/debug/drain", R"({"timeout":3})", "", 400, "timeout_seconds is");
  refused("/debug/drain", R"({"timeout_seconds":-1})", "", 400, "out of range");
  refused("/debug/drain", R"({"timeout_seconds":"soon"})", "", 400, "timeout_seconds");
  refused("/debug/drain", "nonsense", "", 400, "JSON");
  refused("/debug/drain", "", "Origin: http://127.0.0.1:8000\r\n", 403, "browser");
  refused("/debug/resume", "", "Origin: https://example.com\r\n", 403, "browser");
  EXPECT_FALSE(rig.gate.Load().draining);
  ASSERT_TRUE(rig.gate.CloseForGood(absl::ZeroDuration()));
  refused("/debug/resume", "", "", 409, "cannot resume");
  refused("/debug/drain", "", "", 409, "stops");
}

TEST(HttpDrainTest, OneReplicaIsDrainedAndTakenBackWhileTheServerServes) {
  DrainRig rig;
  EngineLoad load{.ranks_ready = 2, .ranks = 2};
  load.replicas = {{.left = 3}, {.left = 2}};
  rig.engine.SetLoad(load);
  HttpClient client(rig.front->port());
  client.Post("/debug/drain", R"({"replica":1})");
  const Json drained = JsonOf(client.Read());
  EXPECT_EQ(drained["draining"], false);
  EXPECT_EQ(drained["replicas"], Json::parse(R"([{"draining":false,"requests_left":3},
                                                 {"draining":true,"requests_left":2}])"));
  EXPECT_FALSE(rig.gate.Load().draining);
  client.Post("/debug/resume", R"({"replica":1})");
  EXPECT_EQ(JsonOf(client.Read())["replicas"][1]["draining"], false);
  for (const auto& [path, body, why] : {std::tuple("/debug/drain", R"({"replica":2})", "replica"),
                                        {"/debug/drain", R"({"replica":-1})", "numbered from 0"},
                                        {"/debug/drain", R"({"replica":1,"timeout_seconds":3})", "leave it out"},
                                        {"/debug/resume", R"({"replicas":1})", "replica is"}}) {
    client.Post(path, body);
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 400) << body;
    EXPECT_THAT(answer.body, HasSubstr(why)) << body;
  }
}

TEST(HttpDrainTest, NeedsAnOperatorsKeyWhereKeysAreNeeded) {
  FakeEngine engine;
  RealClock clock;
  Metrics metrics("tiny");
  Tenants tenants({.key = "sk-operator"}, clock, metrics);
  ASSERT_OK(tenants.Read());
  HttpRig rig({.tenants = &tenants});
  HttpClient bare(rig.port());
  bare.Post("/debug/drain", "");
  EXPECT_EQ(bare.Read().status, 401);
  HttpClient keyed(rig.port());
  keyed.Post("/debug/drain", "", "Authorization: Bearer sk-operator\r\n");
  EXPECT_EQ(keyed.Read().status, 200);
}

TEST(HttpDrainTest, AnswersHaveADate) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Get("/version");
  const HttpAnswer whole = client.Read();
  client.Post("/v1/completions", kStream);
  const Request request = rig.engine.Await(0);
  request.sink->OnEnd(EndOf(request, 0));
  const HttpAnswer stream = client.Read();
  for (const HttpAnswer& answer : {whole, stream}) {
    absl::Time date;
    std::string error;
    ASSERT_EQ(answer.headers.count("date"), 1u);
    EXPECT_TRUE(absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", answer.headers.at("date"), &date, &error)) << error;
    EXPECT_LT(absl::AbsDuration(WallTime() - date), absl::Hours(1));
  }
}

}  // namespace
}  // namespace interlace
