// Requests and answers that are not streams: routing, limits, errors, connections.
#include "coordinator/front/http_front.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/front/http_rig.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

Json JsonOf(const HttpAnswer& answer) { return Json::parse(answer.body, nullptr, false); }

TEST(HttpFrontTest, HealthFollowsTheRanks) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Get("/health");
  EXPECT_EQ(client.Read().status, 200);
  rig.engine.SetLoad({.ranks_ready = 1, .ranks = 2});
  for (const char* path : {"/health", "/ping"}) {
    client.Get(path);
    EXPECT_EQ(client.Read().status, 503) << path;
  }
  client.Get("/v1/models");
  EXPECT_TRUE(JsonOf(client.Read())["data"].empty());
  rig.engine.SetLoad({.ranks_ready = 2, .ranks = 2, .draining = true});
  client.Get("/health");
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(JsonOf(answer)["status"], "draining");
}

// Whoever restarts what is not well leaves it alone, and whoever sends clients to what is ready goes elsewhere.
TEST(HttpFrontTest, OneThatStandsByIsWellAndNotReady) {
  HttpRig rig({.standby = [] { return true; }});
  rig.engine.SetLoad({.ranks_ready = 0, .ranks = 2});
  HttpClient client(rig.port());
  client.Get("/health");
  const HttpAnswer health = client.Read();
  EXPECT_EQ(health.status, 200);
  EXPECT_EQ(JsonOf(health)["status"], "standby");
  client.Get("/ready");
  const HttpAnswer ready = client.Read();
  EXPECT_EQ(ready.status, 503);
  EXPECT_TRUE(ready.headers.contains("retry-after"));
  EXPECT_EQ(JsonOf(ready)["status"], "standby");
}

TEST(HttpFrontTest, ServesTheSmallPages) {
  HttpRig rig;
  rig.metrics.Set("vllm:num_requests_running", 3);
  HttpClient client(rig.port());
  client.Get("/v1/models");
  EXPECT_EQ(JsonOf(client.Read())["data"][0]["max_model_len"], kTestContext);
  client.Get("/v1/models/tiny");
  EXPECT_EQ(JsonOf(client.Read())["id"], "tiny");
  client.Get("/v1/models/other");
  EXPECT_EQ(client.Read().status, 404);
  client.Get("/version?x=1");
  EXPECT_TRUE(JsonOf(client.Read())["version"].is_string());
  client.Get("/metrics");
  const HttpAnswer metrics = client.Read();
  EXPECT_THAT(metrics.headers.at("content-type"), HasSubstr("text/plain"));
  EXPECT_THAT(metrics.body, HasSubstr("vllm:num_requests_running{model_name=\"tiny\"} 3"));
  client.Send("HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.Read(/*head_only=*/true).status, 200);
  client.Get("/version");  // nothing of a body came before it
  EXPECT_EQ(client.Read().status, 200);
}

TEST(HttpFrontTest, TokenizeAndDetokenizeAreInverse) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/tokenize", R"({"prompt":"Hello wörld 🙂"})");
  const Json tokens = JsonOf(client.Read());
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  client.Post("/detokenize", Json{{"tokens", tokens["tokens"]}}.dump());
  EXPECT_EQ(JsonOf(client.Read())["prompt"], "Hello wörld 🙂");
  client.Post("/tokenize", R"({"messages":[{"role":"user","content":"hi"}]})");
  EXPECT_GT(JsonOf(client.Read())["count"], 10);
  client.Post("/detokenize", R"({"tokens":[99999999]})");
  EXPECT_EQ(client.Read().status, 400);
}

TEST(HttpFrontTest, ExplainsARequest) {
  HttpRig rig;
  Explanation explanation;
  explanation.name = "abc/1";
  explanation.state = "finished";
  explanation.layers.push_back({.kept = true, .blocks_device = 2, .blocks_host = 1});
  rig.engine.SetExplanation(explanation);
  HttpClient client(rig.port());
  client.Get("/debug/requests/chatcmpl-abc%2F1");
  const Json json = JsonOf(client.Read());
  EXPECT_EQ(json["state"], "finished");
  EXPECT_EQ(json["by_layer"][0]["mode"], "keep");
  client.Get("/debug/requests/none");
  EXPECT_EQ(client.Read().status, 404);
}

TEST(HttpFrontTest, TargetsComeByHeaderAndByBody) {
  HttpRig rig;
  HttpClient client(rig.port());
  const auto ask = [&](size_t index, absl::string_view path, const Json& body, absl::string_view headers) {
    client.Post(path, body.dump(), headers);
    const Request request = rig.engine.Await(index);
    request.sink->OnEnd(EndOf(request, 0));
    EXPECT_EQ(client.Read().status, 200);
    return request;
  };
  const Request by_header = ask(0, "/v1/completions", {{"prompt", "a"}},
                                "X-LLM-D-SLO-TTFT-MS: 250\r\nx-slo-tpot-ms:20\r\nx-interlace-deadline-ms: 5000\r\n"
                                "x-llm-d-inference-fairness-id: acme\r\nx-llm-d-inference-objective: premium\r\n");
  EXPECT_EQ(
      by_header.targets,
      (Targets{
          .ttft = absl::Milliseconds(250), .tpot = absl::Milliseconds(20), .tenant = "acme", .objective = "premium"}));
  EXPECT_EQ(by_header.deadline - by_header.arrival, absl::Seconds(5));
  // The next request of the connection has its own headers alone, and its body wins over them.
  const Json messages = Json::array({{{"role", "user"}, {"content", "a"}}});
  const Request by_body = ask(1, "/v1/chat/completions",
                              {{"messages", messages}, {"slo", {{"ttft_ms", 7}}}, {"priority", 3}, {"stream", false}},
                              "x-llm-d-slo-ttft-ms: 250\r\nx-llm-d-slo-largest-gap-ms: 900\r\n");
  EXPECT_EQ(by_body.targets,
            (Targets{.ttft = absl::Milliseconds(7), .largest_gap = absl::Milliseconds(900), .priority = 3}));
}

TEST(HttpFrontTest, ABadTargetIs400ByName) {
  HttpRig rig;
  HttpClient client(rig.port());
  const auto ask = [&](const char* body, const char* headers) {
    client.Post("/v1/completions", body, headers);
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 400);
    return JsonOf(answer)["error"];
  };
  const Json header = ask(R"({"prompt":"a","stream":true})", "x-slo-ttft-ms: fast\r\n");
  EXPECT_EQ(header["param"], "x-slo-ttft-ms");
  EXPECT_THAT(header["message"], HasSubstr("'fast'"));
  const Json field = ask(R"({"prompt":"a","slo":{"tpot_ms":-7}})", "");
  EXPECT_EQ(field["param"], "slo.tpot_ms");
  EXPECT_THAT(field["message"], HasSubstr("-7"));
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(HttpFrontTest, AnswersACompletionWhole) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/completions", R"({"prompt":"a","max_tokens":9})", "x-request-id: my-id\r\n");
  const Request request = rig.engine.Await(0);
  rig.Say(request, "Hello there");
  request.sink->OnEnd(EndOf(request, rig.TokensOf("Hello there"), FinishReason::kLength));
  const HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.headers.at("x-request-id"), "my-id");
  const Json json = JsonOf(answer);
  EXPECT_EQ(json["id"], "cmpl-my-id");
  EXPECT_EQ(json["object"], "text_completion");
  EXPECT_EQ(json["choices"][0]["text"], "Hello there");
  EXPECT_EQ(json["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], rig.TokensOf("Hello there"));
  EXPECT_EQ(request.name, "my-id");
}

TEST(HttpFrontTest, LogprobsComeWithTheirTextWholeOrStreamed) {
  for (const bool stream : {false, true}) {
    HttpRig rig;
    HttpClient client(rig.port());
    client.Post("/v1/completions", Json{{"prompt", "a"}, {"logprobs", 1}, {"stop", " END"}, {"stream", stream}}.dump());
    const Request request = rig.engine.Await(0);
    EXPECT_EQ(request.sampling.logprobs, 1);
    const std::vector<int32_t> tokens = TestText().tokenizer->Encode("Hello 𓀀 wörld END", false);
    for (int32_t token : tokens) request.sink->OnScoredToken(token, {{token, -1.5f}, {33, -0.25f}});
    const HttpAnswer answer = client.Read();
    std::string text, named;
    std::vector<int64_t> offsets;
    const auto take = [&](const Json& choice) {
      text += choice["text"];
      if (!choice.contains("logprobs") || choice["logprobs"].is_null()) return;
      const Json& logprobs = choice["logprobs"];
      for (size_t i = 0; i < logprobs["tokens"].size(); ++i) {
        named += logprobs["tokens"][i];
        offsets.push_back(logprobs["text_offset"][i]);
        EXPECT_EQ(logprobs["token_logprobs"][i], -1.5);
        EXPECT_EQ(logprobs["top_logprobs"][i].size(), 2u);
      }
    };
    if (stream) {
      for (size_t at = 0; (at = answer.body.find("data: {", at)) != std::string::npos; ++at) {
        take(Json::parse(answer.body.substr(at + 6, answer.body.find('\n', at) - at - 6))["choices"][0]);
      }
    } else {
      take(JsonOf(answer)["choices"][0]);
    }
    EXPECT_EQ(text, "Hello 𓀀 wörld");
    EXPECT_THAT(named, HasSubstr("Hello"));
    EXPECT_THAT(named, HasSubstr("bytes:\\x"));
    EXPECT_EQ(named.find("END"), std::string::npos);
    EXPECT_TRUE(std::is_sorted(offsets.begin(), offsets.end()));
    EXPECT_LT(offsets.back(), 14);  // code points of the text
    EXPECT_TRUE(rig.engine.stopped(request.id));
    EXPECT_FALSE(rig.engine.cancelled(request.id));
  }
}

TEST(HttpFrontTest, SeveralPromptsAreSeveralChoices) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/completions", R"({"prompt":["a","b"],"n":2})");
  for (size_t i = 4; i-- > 0;) {  // they may end in any order
    const Request request = rig.engine.Await(i);
    rig.Say(request, absl::StrCat(i));
    request.sink->OnEnd(EndOf(request, 1));
  }
  const Json json = JsonOf(client.Read());
  ASSERT_EQ(json["choices"].size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(json["choices"][i]["text"], absl::StrCat(i));
  EXPECT_EQ(json["usage"]["prompt_tokens"], 2);
}

TEST(HttpFrontTest, RefusalsHaveARealStatusAndOpenAisBody) {
  HttpRig rig;
  HttpClient client(rig.port());
  const auto ask = [&](absl::string_view body) {
    client.Post("/v1/completions", body);
    return client.Read();
  };
  EXPECT_EQ(ask("{nonsense").status, 400);
  HttpAnswer answer = ask(R"({"prompt":"a","logit_bias":{"1":200}})");
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(JsonOf(answer)["error"]["param"], "logit_bias");
  EXPECT_EQ(answer.headers.at("x-should-retry"), "false");
  EXPECT_EQ(ask(R"({"prompt":"a","model":"other"})").status, 404);
  answer = ask(R"({"prompt":"a","max_tokens":100000})");
  EXPECT_EQ(JsonOf(answer)["error"]["code"], "context_length_exceeded");

  rig.engine.Refuse(absl::ResourceExhaustedError("256 requests are waiting"));
  answer = ask(R"({"prompt":"a","stream":true})");
  EXPECT_EQ(answer.status, 429);
  int64_t ms = 0;
  EXPECT_TRUE(absl::SimpleAtoi(answer.headers.at("retry-after-ms"), &ms) && ms > 0);
  EXPECT_EQ(JsonOf(answer)["error"]["type"], "rate_limit_error");
  rig.engine.Refuse(absl::FailedPreconditionError("the request can never run"));
  EXPECT_EQ(ask(R"({"prompt":"a"})").status, 400);
  rig.engine.Refuse(absl::UnavailableError("draining"));
  EXPECT_EQ(ask(R"({"prompt":"a","stream":true})").status, 503);
  EXPECT_EQ(ask(R"({"prompt":"a","deadline_ms":0})").status, 504);
  EXPECT_EQ(ask(R"({"prompt":"a","deadline_ms":-1})").status, 400);
}

TEST(HttpFrontTest, WhoIsShedIsToldWhyAndWhenToComeBack) {
  HttpRig rig;
  HttpClient client(rig.port());
  size_t i = 0;
  for (const bool stream : {false, true}) {
    for (const bool hopeless : {false, true}) {
      client.Post("/v1/completions", Json{{"prompt", "a"}, {"stream", stream}}.dump());
      const Request request = rig.engine.Await(i++);
      RequestEnd end = EndOf(request, 0, FinishReason::kStop, absl::ResourceExhaustedError("its first token .."));
      end.shed = Shed{"predicted_ttft_miss", absl::Milliseconds(1234), hopeless};
      request.sink->OnEnd(end);
      const HttpAnswer answer = client.Read();
      EXPECT_EQ(answer.status, 429);
      EXPECT_EQ(answer.headers.at("x-interlace-shed-reason"), "predicted_ttft_miss");
      EXPECT_EQ(answer.headers.at("x-llm-d-request-dropped-reason"), "predicted_ttft_miss");
      EXPECT_EQ(answer.headers.at("retry-after-ms"), "1234");
      EXPECT_EQ(answer.headers.at("retry-after"), "2");
      EXPECT_EQ(answer.headers.count("x-should-retry"), hopeless ? 1u : 0u);
      EXPECT_EQ(JsonOf(answer)["error"]["code"], "predicted_slo_miss");
      EXPECT_EQ(JsonOf(answer)["error"]["type"], "rate_limit_error");
    }
  }
}

TEST(HttpFrontTest, WhatTurnsOutNeverToFitIsTheClientsErrorToo) {
  HttpRig rig;
  HttpClient client(rig.port());
  for (size_t i = 0; const bool stream : {false, true}) {
    client.Post("/v1/completions", Json{{"prompt", "a"}, {"stream", stream}}.dump());
    const Request request = rig.engine.Await(i++);
    request.sink->OnEnd(EndOf(request, 0, FinishReason::kStop, absl::FailedPreconditionError("raise kv.device_bytes")));
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 400);
    EXPECT_EQ(answer.headers.count("retry-after"), 0u);
    EXPECT_EQ(JsonOf(answer)["error"]["code"], "kv_capacity_exceeded");
  }
}

TEST(HttpFrontTest, UsageCountsTheCachedTokensOfEachPromptOnce) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/completions", R"({"prompt":[[1,2,3,4,5],[6,7,8]],"n":2,"stop":"END"})");
  for (size_t i = 0; i < 4; ++i) {
    const Request request = rig.engine.Await(i);
    const int32_t cached = i == 0 ? 3 : i == 1 ? 5 : i == 2 ? 2 : 3;
    request.sink->OnCached(cached);
    if (i < 2) {  // the door ends these two by itself
      rig.Say(request, "one END two");
    } else {
      RequestEnd end = EndOf(request, 1);
      end.cached_tokens = cached;
      request.sink->OnEnd(end);
    }
  }
  const Json usage = JsonOf(client.Read())["usage"];
  EXPECT_EQ(usage["prompt_tokens"], 8);
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], 3 + 2);
}

// A model may have more rows than its tokenizer has pieces; temperature or top_logprobs bring such ids up.
TEST(HttpFrontTest, IdsBeyondTheTokenizerAreEmptyPieces) {
  HttpRig rig;
  HttpClient client(rig.port());
  const int32_t beyond = TestText().tokenizer->vocab_size() + 3;
  for (size_t i = 0; const bool stream : {false, true}) {
    client.Post("/v1/completions", Json{{"prompt", "a"}, {"logprobs", 2}, {"stream", stream}}.dump());
    const Request request = rig.engine.Await(i++);
    const int32_t yes = TestText().tokenizer->Encode("yes", false).at(0);
    request.sink->OnScoredToken(yes, {{yes, -1}, {beyond, -2}});
    request.sink->OnScoredToken(beyond, {{beyond, -1}, {INT32_MAX, -2}, {-1, -3}});
    request.sink->OnEnd(EndOf(request, 2));
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 200);
    EXPECT_THAT(answer.body, HasSubstr("\"text\":\"yes\""));
  }
}

TEST(HttpFrontTest, DeepBodiesAreRefusedAtEveryDoor) {
  HttpRig rig;
  HttpClient client(rig.port());
  const std::string deep = std::string(300000, '[');
  for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}) {
    for (const char* field : {"stop", "bad_words", "prompt", "messages", "tokens", "whatever"}) {
      for (const std::string& end : {std::string(), std::string(300000, ']') + "}"}) {
        client.Post(path, absl::StrCat("{\"prompt\":\"a\",\"", field, "\":", deep, end));
        const HttpAnswer answer = client.Read();
        EXPECT_EQ(answer.status, 400) << path << " " << field;
        EXPECT_THAT(answer.body, HasSubstr("deeper")) << path << " " << field;
      }
    }
  }
}

TEST(HttpFrontTest, UnknownPathsAndMethods) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Get("/nowhere");
  EXPECT_EQ(client.Read().status, 404);
  client.Get("/v1/completions");
  HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 405);
  EXPECT_EQ(answer.headers.at("allow"), "POST");
  client.Post("/health", "{}");
  EXPECT_EQ(client.Read().status, 405);
  client.Send("BREW /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.Read().status, 405);
}

TEST(HttpFrontTest, BodiesAndHeadersAreBounded) {
  HttpRig rig({.max_body = 1000});
  {
    HttpClient client(rig.port());
    client.Post("/v1/completions", std::string(5000, ' '));
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 413);
    EXPECT_THAT(answer.body, HasSubstr("request.max_body"));
  }
  {
    HttpClient client(rig.port());
    client.Send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 20; ++i) client.Send(absl::StrCat("64\r\n", std::string(100, ' '), "\r\n"));
    EXPECT_EQ(client.Read().status, 413);
  }
  {
    HttpClient client(rig.port());
    client.Send(absl::StrCat("GET /health HTTP/1.1\r\nHost: x\r\nx-long: ", std::string(100000, 'a'), "\r\n\r\n"));
    EXPECT_EQ(client.Read().status, 431);
  }
  {
    HttpClient client(rig.port());
    client.Send("what is this\r\n\r\n");
    EXPECT_EQ(client.Read().status, 400);
    EXPECT_TRUE(client.AwaitEnd());
  }
  HttpClient client(rig.port());
  client.Post("/v1/completions", "{}", "Expect: 100-continue\r\n");
  EXPECT_EQ(client.ReadHead().status, 100);
  EXPECT_EQ(client.Read().status, 400);
}

TEST(HttpFrontTest, ASlowRequestDoesNotHoldItsConnection) {
  HttpRig rig({.header_timeout = absl::Milliseconds(50), .body_timeout = absl::Milliseconds(50)});
  HttpClient headers(rig.port()), body(rig.port());
  headers.Send("GET /health HT");
  body.Send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{");
  EXPECT_TRUE(headers.AwaitEnd());
  EXPECT_TRUE(body.AwaitEnd());
}

TEST(HttpFrontTest, PipelinedRequestsAreAnsweredInOrder) {
  HttpRig rig;
  HttpClient client(rig.port());
  const std::string body = R"({"prompt":"a"})";
  std::string pipeline = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
  for (int i = 0; i < 2; ++i) {
    absl::StrAppend(&pipeline, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: ", body.size(), "\r\n\r\n",
                    body);
  }
  absl::StrAppend(&pipeline, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
  client.Send(pipeline);
  EXPECT_THAT(client.Read().body, HasSubstr("version"));
  for (size_t i = 0; i < 2; ++i) {
    const Request request = rig.engine.Await(i);
    // What the server had read by now went through its two threads, as this question of another client does after it.
    HttpClient other(rig.port());
    other.Post("/tokenize", R"({"prompt":"a"})");
    EXPECT_EQ(other.Read().status, 200);
    EXPECT_EQ(rig.engine.submitted(), i + 1);  // the next one waits for this one's answer
    rig.Say(request, absl::StrCat("answer ", i));
    request.sink->OnEnd(EndOf(request, 1));
    EXPECT_EQ(JsonOf(client.Read())["choices"][0]["text"], absl::StrCat("answer ", i));
  }
  EXPECT_THAT(client.Read().body, HasSubstr("ranks_ready"));
}

TEST(HttpFrontTest, RandomBytesGetAnAnswerOrAnEnd) {
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(5);
  HttpRig rig({.header_timeout = absl::Milliseconds(20), .body_timeout = absl::Milliseconds(20)});
  const std::string valid = "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}";
  for (int round = 0; round < 150; ++round) {
    std::string bytes = valid;
    for (int changes = 1 + entropy->Next() % 5; changes > 0; --changes) {
      bytes[entropy->Next() % bytes.size()] = static_cast<char>(entropy->Next());
    }
    HttpClient client(rig.port());
    client.Send(bytes);
    const HttpAnswer answer = client.Read();
    EXPECT_TRUE(answer.status == 0 || (answer.status >= 200 && answer.status < 500)) << answer.status;
  }
  HttpClient client(rig.port());
  client.Get("/health");
  EXPECT_EQ(client.Read().status, 200);
}

TEST(HttpFrontTest, ATakenPortIsNamed) {
  HttpRig rig;
  const absl::Status status = HttpFront::Listen({.port = rig.port()}, rig.intake, rig.metrics).status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(absl::StrCat(rig.port()))));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("server.http_port")));
}

TEST(HttpFrontTest, StopFinishesAnswersAndClosesTheRest) {
  HttpRig rig;
  HttpClient idle(rig.port()), busy(rig.port());
  idle.Get("/health");
  EXPECT_EQ(idle.Read().status, 200);
  busy.Post("/v1/completions", R"({"prompt":"a"})");
  const Request request = rig.engine.Await(0);
  Thread stopper("stopper", [&] { rig.front->Stop(absl::Seconds(20)); });
  EXPECT_TRUE(idle.AwaitEnd());
  rig.Say(request, "late");
  request.sink->OnEnd(EndOf(request, 1));
  const HttpAnswer answer = busy.Read();
  EXPECT_EQ(answer.status, 200);
  EXPECT_THAT(answer.body, HasSubstr("late"));
  busy.Close();
  stopper.Join();
  HttpClient late(rig.port());
  EXPECT_FALSE(late.connected());
}

}  // namespace
}  // namespace interlace
