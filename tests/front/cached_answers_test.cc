// What doors say to a response cache, and what they say of its answers.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "coordinator/front/answer_shape.h"
#include "coordinator/front/http_front.h"
#include "coordinator/front/openai_json.h"
#include "tests/front/http_client.h"
#include "tests/front/text_model.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

// A door over an engine that keeps answers.
struct Rig {
  Rig() {
    absl::StatusOr<std::unique_ptr<HttpFront>> listening = HttpFront::Listen({.gate = &gate}, intake, metrics);
    CHECK(listening.ok());
    front = *std::move(listening);
  }
  // The answer "no", which comes from the cache if there is a hit; all `times` of it at once.
  HttpAnswer Ask(absl::string_view path, const Json& body, std::optional<CacheHit> hit, int times = 1) {
    HttpClient client(front->port());
    client.Post(path, body.dump());
    const Request request = engine.Await(asked++);
    const std::vector<int32_t> word = TestText().tokenizer->Encode(" no", false);
    std::vector<int32_t> tokens;
    for (int i = 0; i < times; ++i) tokens.insert(tokens.end(), word.begin(), word.end());
    if (hit) request.sink->OnCacheHit(*hit);
    request.sink->OnTokens(tokens);
    request.sink->OnEnd(EndOf(request, static_cast<int32_t>(tokens.size())));
    return client.Read();
  }

  FakeEngine engine;
  RealClock clock;
  Metrics metrics{"tiny"};
  Intake intake{{.model = "tiny", .context = 1 << 20, .layers = 30, .created = 1700000000, .caches = true},
                *TestText().tokenizer,
                TestText().chat_template.get(),
                engine,
                clock,
                MakeSeededEntropy(7)};
  DrainGate gate{engine, clock, metrics};
  std::unique_ptr<HttpFront> front;
  size_t asked = 0;
};

Json Chat(bool stream) {
  return {{"model", "tiny"}, {"stream", stream}, {"messages", {{{"role", "user"}, {"content", "Is it?"}}}}};
}

std::string CacheHeader(const HttpAnswer& answer) {
  const auto found = answer.headers.find("x-interlace-cache");
  return found == answer.headers.end() ? "" : found->second;
}

TEST(CachedAnswersTest, AHeaderSaysThatAnAnswerWasKept) {
  Rig rig;
  for (const bool stream : {false, true}) {
    EXPECT_EQ(CacheHeader(rig.Ask("/v1/chat/completions", Chat(stream), std::nullopt)), "");
    EXPECT_EQ(CacheHeader(rig.Ask("/v1/chat/completions", Chat(stream), CacheHit{.exact = true})), "exact");
    EXPECT_EQ(CacheHeader(rig.Ask("/v1/chat/completions", Chat(stream), CacheHit{false, 0.97314F})),
              "semantic; similarity=0.9731");
  }
}

TEST(CachedAnswersTest, ALongOneThatComesAtOnceIsNoSlowReader) {
  Rig rig;
  const HttpAnswer answer = rig.Ask("/v1/chat/completions", Chat(false), CacheHit{.exact = true}, 5000);
  ASSERT_EQ(answer.status, 200) << answer.body.substr(0, 200);
  const std::string text = Json::parse(answer.body)["choices"][0]["message"]["content"];
  EXPECT_EQ(text.size(), 3u * 5000);
}

TEST(CachedAnswersTest, ABodyMaySayThatItWantsNone) {
  Rig rig;
  const auto terms = [&](const Json& cache) {
    Json body = Chat(false);
    body["cache"] = cache;
    rig.Ask("/v1/chat/completions", body, std::nullopt);
    const Request request = rig.engine.Await(rig.asked - 1);
    return std::pair(request.caching->look_up, request.caching->keep);
  };
  EXPECT_EQ(terms(nullptr), std::pair(true, true));
  EXPECT_EQ(terms(Json::object()), std::pair(true, true));
  EXPECT_EQ(terms({{"no-cache", true}}), std::pair(false, true));
  EXPECT_EQ(terms({{"no-store", true}}), std::pair(true, false));
  EXPECT_EQ(terms({{"no-cache", true}, {"no-store", true}}), std::pair(false, false));
  for (const char* bad : {R"("no")", R"({"no-cache": 1})", R"({"no-store": "yes"})"}) {
    Json body = Chat(false);
    body["cache"] = Json::parse(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(ParseChat(body.dump()).status())) << bad;
  }
}

// ---- the shape

std::string ShapeOf(const Json& body) {
  absl::StatusOr<ApiRequest> request = ParseChat(body.dump());
  CHECK(request.ok());
  return CacheTermsOf(request->spec).shape;
}

Json Talk(std::vector<std::pair<std::string, std::string>> said) {
  Json body = {{"messages", Json::array()}};
  for (const auto& [role, content] : said) body["messages"].push_back({{"role", role}, {"content", content}});
  return body;
}

TEST(CachedAnswersTest, WhatAUserSaidLastIsNoPartOfTheShape) {
  EXPECT_EQ(ShapeOf(Talk({{"system", "Be kind."}, {"user", "a"}})),
            ShapeOf(Talk({{"system", "Be kind."}, {"user", "b"}})));
}

TEST(CachedAnswersTest, EverythingElseIs) {
  std::vector<Json> bodies = {
      Talk({{"user", "a"}}),
      Talk({{"system", "Be kind."}, {"user", "a"}}),
      Talk({{"system", "Be brief."}, {"user", "a"}}),
      Talk({{"system", ""}, {"user", "a"}}),
      Talk({{"user", "b"}, {"assistant", "c"}, {"user", "a"}}),
      Talk({{"user", "b"}, {"assistant", "d"}, {"user", "a"}}),
      Talk({{"user", "b"}, {"assistant", "c"}}),
      Talk({{"user", "b"}, {"assistant", "d"}}),
  };
  const auto with = [&](const char* field, const Json& value) {
    bodies.push_back(Talk({{"user", "a"}}));
    bodies.back()[field] = value;
  };
  with("stop", "x");
  with("stop", Json{"x", "y"});
  with("stop", "x1:y");
  with("include_stop_str_in_output", true);
  with("skip_special_tokens", false);
  with("chat_template_kwargs", {{"enable_thinking", false}});
  with("chat_template_kwargs", {{"enable_thinking", true}});
  with("add_generation_prompt", false);
  std::set<std::string> shapes;
  for (const Json& body : bodies) EXPECT_TRUE(shapes.insert(ShapeOf(body)).second) << body;
}

TEST(CachedAnswersTest, ToolsAreNamed) {
  Json body = Talk({{"user", "a"}});
  EXPECT_FALSE(CacheTermsOf(ParseChat(body.dump())->spec).tools);
  body["tools"] = {{{"type", "function"}, {"function", {{"name", "f"}}}}};
  EXPECT_TRUE(CacheTermsOf(ParseChat(body.dump())->spec).tools);
}

}  // namespace
}  // namespace interlace
