// What the HTTP door does for every client alike: origins, encodings of bodies, small endpoints, fields of completions.
#include <gtest/gtest.h>
#include <zlib.h>

#include <nlohmann/json.hpp>

#include "coordinator/front/cors.h"
#include "coordinator/front/http_front.h"
#include "tests/front/http_rig.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

Json JsonOf(const HttpAnswer& answer) { return Json::parse(answer.body, nullptr, false); }

// `bits`: zlib's windowBits.
std::string Compress(const std::string& text, int bits) {
  z_stream stream{};
  CHECK(deflateInit2(&stream, 9, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(out.size() - stream.avail_out);
  deflateEnd(&stream);
  return out;
}

std::string Gzip(const std::string& text) { return Compress(text, 15 + 16); }

TEST(HttpRulesTest, SmallEndpoints) {
  HttpRig rig;
  rig.engine.SetLoad({.ranks_ready = 2, .ranks = 2, .running = 3, .waiting = 4});
  HttpClient client(rig.port());
  client.Get("/load");
  EXPECT_EQ(JsonOf(client.Read())["server_load"], 7);
  for (const char* path : {"/ready", "/health/", "/v1/models/", "/v1/models/tiny/", "/version/"}) {
    client.Get(path);
    EXPECT_EQ(client.Read().status, 200) << path;
  }
  client.Post("/ping", "");
  EXPECT_EQ(client.Read().status, 200);
  rig.engine.SetLoad({.ranks_ready = 1, .ranks = 2});
  for (const char* path : {"/ready", "/health", "/ping", "/v1/models/tiny"}) {
    client.Get(path);
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 503) << path;
    EXPECT_EQ(answer.headers.count("retry-after"), 1u) << path;
  }
}

TEST(HttpRulesTest, TokenizeHasVllmsFields) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/tokenize", R"({"model":"tiny","prompt":"a <|im_end|>","return_token_strs":true})");
  const Json json = JsonOf(client.Read());
  EXPECT_EQ(json["max_model_len"], kTestContext);
  EXPECT_EQ(json["token_strs"].back(), "<|im_end|>");
  client.Post("/tokenize", R"({"prompt":"a <|im_end|>","parse_special":false})");
  EXPECT_GT(JsonOf(client.Read())["count"], json["count"]);
  client.Get("/tokenizer_info");
  const Json info = JsonOf(client.Read());
  EXPECT_EQ(info["eos_token"], TestText().tokenizer->Piece(TestText().tokenizer->eos(), true));
  EXPECT_EQ(info["vocab_size"], TestText().tokenizer->vocab_size());
  client.Post("/tokenize", R"({"prompt":""})");
  EXPECT_EQ(JsonOf(client.Read())["count"], 0);
  for (const char* path : {"/tokenize", "/detokenize"}) {
    client.Post(path, R"({"model":"other","prompt":"a","tokens":[1]})");
    EXPECT_EQ(client.Read().status, 404) << path;
  }
}

TEST(HttpRulesTest, PagesMayAskOnLoopback) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Send(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: http://page\r\n"
      "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, content-type\r\n\r\n");
  HttpAnswer answer = client.Read();
  EXPECT_EQ(answer.status, 204);
  EXPECT_EQ(answer.headers.at("access-control-allow-origin"), "*");
  EXPECT_THAT(answer.headers.at("access-control-allow-methods"), HasSubstr("POST"));
  EXPECT_EQ(answer.headers.at("access-control-allow-headers"), "authorization, content-type");
  client.Post("/v1/completions", R"({"prompt":"a","max_tokens":0})", "Origin: http://page\r\n");
  answer = client.Read();
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.headers.at("access-control-allow-origin"), "*");
  EXPECT_THAT(answer.headers.at("access-control-expose-headers"), HasSubstr("x-request-id"));
  client.Post("/v1/completions", R"({"prompt":"a","stream":true})", "Origin: http://page\r\n");
  const Request request = rig.engine.Await(0);
  request.sink->OnEnd(EndOf(request, 0));
  EXPECT_EQ(client.Read().headers.at("access-control-allow-origin"), "*");
  client.Get("/health");
  EXPECT_EQ(client.Read().headers.count("access-control-allow-origin"), 0u);
}

TEST(HttpRulesTest, OtherOriginsAreKeptOutWhereTheSettingSaysSo) {
  HttpRig rig({.cors = "https://a.example, https://b.example"});
  HttpClient client(rig.port());
  const auto preflight = [&](const std::string& origin) {
    client.Send("OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\nOrigin: " + origin +
                "\r\nAccess-Control-Request-Method: GET\r\n\r\n");
    return client.Read();
  };
  const HttpAnswer allowed = preflight("https://b.example");
  EXPECT_EQ(allowed.status, 204);
  EXPECT_EQ(allowed.headers.at("access-control-allow-origin"), "https://b.example");
  EXPECT_EQ(allowed.headers.at("vary"), "Origin");
  const HttpAnswer refused = preflight("https://c.example");
  EXPECT_EQ(refused.status, 403);
  EXPECT_EQ(refused.headers.count("access-control-allow-origin"), 0u);
  EXPECT_THAT(refused.body, HasSubstr("http.cors"));
}

TEST(CorsPolicyTest, AutoOpensLoopbackAlone) {
  for (const char* host : {"127.0.0.1", "localhost", "::1"}) EXPECT_TRUE(CorsPolicy("auto", host).Allows("http://p"));
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "example"}) {
    EXPECT_FALSE(CorsPolicy("auto", host).Allows("http://p")) << host;
  }
  EXPECT_FALSE(CorsPolicy("none", "127.0.0.1").Allows("http://p"));
  EXPECT_TRUE(CorsPolicy("*", "0.0.0.0").Allows("http://p"));
  EXPECT_FALSE(CorsPolicy("*", "0.0.0.0").Allows(""));
}

TEST(HttpRulesTest, BodiesMayBeCompressed) {
  HttpRig rig;
  HttpClient client(rig.port());
  const std::string body = R"({"prompt":"Hello"})";
  client.Post("/tokenize", body);
  const std::string plain = client.Read().body;
  client.Post("/tokenize", Gzip(body), "Content-Encoding: gzip\r\n");
  EXPECT_EQ(client.Read().body, plain);
  client.Post("/v1/completions", Gzip(body), "Content-Encoding: gzip\r\n");
  const Request request = rig.engine.Await(0);
  request.sink->OnEnd(EndOf(request, 0));
  EXPECT_EQ(client.Read().status, 200);
  client.Post("/v1/completions", body, "Content-Encoding: br\r\n");
  EXPECT_EQ(client.Read().status, 415);
}

// Some clients call zlib's format deflate, as they should, and some its content alone.
TEST(HttpRulesTest, DeflateMeansEither) {
  HttpRig rig;
  HttpClient client(rig.port());
  const std::string body = R"({"prompt":"Hello"})";
  client.Post("/tokenize", body);
  const std::string plain = client.Read().body;
  for (const int bits : {15, -15}) {
    client.Post("/tokenize", Compress(body, bits), "Content-Encoding: deflate\r\n");
    EXPECT_EQ(client.Read().body, plain) << bits;
  }
}

TEST(HttpRulesTest, CompressedBodiesAreBoundedAndMayBeDamaged) {
  HttpRig rig({.max_body = 100000});
  HttpClient client(rig.port());
  const std::string bomb = Gzip(std::string(50000000, ' '));
  ASSERT_LT(bomb.size(), 100000u);
  for (const char* path : {"/v1/completions", "/tokenize", "/v1/messages"}) {
    client.Post(path, bomb, "Content-Encoding: gzip\r\n");
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 413) << path;
    EXPECT_THAT(answer.body, HasSubstr("request.max_body"));
  }
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(8);
  const std::string good = Gzip(R"({"prompt":"a","temperature":-1})");
  for (int round = 0; round < 300; ++round) {
    std::string bad = good;
    if (round % 2) bad.resize(entropy->Next() % bad.size());
    if (!bad.empty()) bad[entropy->Next() % bad.size()] = static_cast<char>(entropy->Next());
    client.Post("/v1/completions", bad, "Content-Encoding: gzip\r\n");
    EXPECT_EQ(client.Read().status, 400);
  }
  EXPECT_EQ(rig.engine.submitted(), 0u);
}

TEST(HttpRulesTest, TheTokenThatEndsATurnCounts) {
  HttpRig rig;
  HttpClient client(rig.port());
  size_t i = 0;
  for (const FinishReason reason : {FinishReason::kStop, FinishReason::kLength}) {
    client.Post("/v1/completions", R"({"prompt":"a"})");
    const Request request = rig.engine.Await(i++);
    rig.Say(request, "yes");
    request.sink->OnEnd(EndOf(request, 1, reason));
    EXPECT_EQ(JsonOf(client.Read())["usage"]["completion_tokens"], reason == FinishReason::kStop ? 2 : 1);
  }
  client.Post("/v1/completions", R"({"prompt":"a","stop":"yes"})");
  rig.Say(rig.engine.Await(i), "yes");  // its last token is the string's
  const Json json = JsonOf(client.Read());
  EXPECT_EQ(json["usage"]["completion_tokens"], 1);
  EXPECT_EQ(json["choices"][0]["stop_reason"], "yes");
}

TEST(HttpRulesTest, FieldsOfCompletions) {
  HttpRig rig;
  HttpClient client(rig.port());
  size_t i = 0;
  const auto ask = [&](Json body, const std::string& text) {
    client.Post("/v1/completions", body.dump());
    const Request request = rig.engine.Await(i++);
    for (int32_t token : TestText().tokenizer->Encode(text, /*special=*/true)) request.sink->OnTokens({token});
    request.sink->OnEnd(EndOf(request, 1));
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 200) << answer.body;
    if (!body.value("stream", false)) return JsonOf(answer)["choices"][0]["text"].get<std::string>();
    std::string out;
    for (size_t at = 0; (at = answer.body.find("data: {", at)) != std::string::npos; ++at) {
      out += Json::parse(answer.body.substr(at + 6, answer.body.find('\n', at) - at - 6))["choices"][0]["text"];
    }
    return out;
  };
  for (const bool stream : {false, true}) {
    EXPECT_EQ(ask({{"prompt", "One "}, {"echo", true}, {"stream", stream}}, "two"), "One two");
    EXPECT_EQ(ask({{"prompt", {1, 2}}, {"echo", true}, {"stream", stream}}, "x"),
              TestText().tokenizer->Decode({1, 2}, true) + "x");
    EXPECT_EQ(
        ask({{"prompt", "a"}, {"stop", "END"}, {"include_stop_str_in_output", true}, {"stream", stream}}, "b END c"),
        "b END");
    EXPECT_EQ(ask({{"prompt", "a"}, {"skip_special_tokens", false}, {"stream", stream}}, "b<|im_end|>"), "b<|im_end|>");
    EXPECT_EQ(ask({{"prompt", "a"}, {"stream", stream}}, "b<|im_end|>"), "b");
  }
  EXPECT_EQ(rig.engine.Await(0).max_tokens, 16);
}

TEST(HttpRulesTest, TheBestOfManyAreAnswered) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/v1/completions", R"({"prompt":["a","b"],"n":2,"best_of":3})");
  const int32_t token = TestText().tokenizer->Encode("x", false).at(0);
  const float scores[] = {-3, -1, -2, -0.5, -0.25, -9};
  for (size_t i = 0; i < 6; ++i) {
    const Request request = rig.engine.Await(i);
    EXPECT_EQ(request.sampling.logprobs, 0);
    rig.Say(request, absl::StrCat(i));
    request.sink->OnScoredToken(token, {{token, scores[i]}});
    request.sink->OnEnd(EndOf(request, 2, FinishReason::kLength));
  }
  const Json json = JsonOf(client.Read());
  ASSERT_EQ(json["choices"].size(), 4u);
  const char* const best[] = {"1x", "2x", "4x", "3x"};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(json["choices"][i]["text"], best[i]);
    EXPECT_EQ(json["choices"][i]["index"], i);
    EXPECT_TRUE(json["choices"][i]["logprobs"].is_null());
  }
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);  // all that were made
  client.Post("/v1/completions", R"({"prompt":"a","best_of":3,"stream":true})");
  EXPECT_EQ(JsonOf(client.Read())["error"]["param"], "best_of");
}

TEST(HttpRulesTest, HundredsOfPromptsAreAnsweredInOrder) {
  HttpRig rig;
  HttpClient client(rig.port());
  Json prompts = Json::array();
  for (int i = 0; i < 300; ++i) prompts.push_back(absl::StrCat("p", i));
  client.Post("/v1/completions", Json{{"prompt", prompts}}.dump());
  for (size_t i = 0; i < 300; ++i) {
    const Request request = rig.engine.Await(i);  // those behind the first come as others end
    rig.Say(request, absl::StrCat(i));
    request.sink->OnEnd(EndOf(request, 1));
  }
  const Json json = JsonOf(client.Read());
  ASSERT_EQ(json["choices"].size(), 300u);
  for (size_t i = 0; i < 300; ++i) EXPECT_EQ(json["choices"][i]["text"], absl::StrCat(i));
}

}  // namespace
}  // namespace interlace
