// /ui: the state as JSON, and the routes of the page.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "coordinator/front/ui_json.h"
#include "coordinator/front/ui_page.h"
#include "tests/front/http_rig.h"
#include "tests/front/random_snapshot.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::_;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(UiJsonTest, WhatIsPrintedIsReadBack) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto entropy = MakeSeededEntropy(seed);
    const UiState state = RandomUiState(*entropy);
    const absl::StatusOr<UiState> read = ParseUiState(UiStateJson(state));
    ASSERT_OK(read) << seed;
    ASSERT_TRUE(*read == state) << "seed " << seed << ": " << UiStateJson(state) << "\n" << UiStateJson(*read);
  }
}

// A server that is another, or broken on the way, is refused, never believed and never fatal.
TEST(UiJsonTest, WhatIsNotAStateIsRefused) {
  for (const char* text : {"", "{", "null", "[]", "{}", "7", R"({"model":1})"}) {
    EXPECT_THAT(ParseUiState(text), StatusIs(absl::StatusCode::kInvalidArgument, _)) << text;
  }
  const auto entropy = MakeSeededEntropy(1);
  for (int round = 0; round < 20; ++round) {
    const std::string whole = UiStateJson(RandomUiState(*entropy));
    for (int i = 0; i < 50; ++i) {
      const size_t at = entropy->Next() % whole.size();
      EXPECT_THAT(ParseUiState(whole.substr(0, at)), StatusIs(absl::StatusCode::kInvalidArgument, _));
      std::string changed = whole;
      changed[at] = static_cast<char>(entropy->Next());
      ParseUiState(changed).IgnoreError();  // any answer will do
    }
    // Each field that is missing, and each of another type.
    Json json = Json::parse(whole);
    for (const auto& [key, value] : json.items()) {
      Json less = json, other = json;
      less.erase(key);
      other[key] = value.is_number() ? Json("text") : Json(7);
      EXPECT_THAT(ParseUiState(less.dump()), StatusIs(absl::StatusCode::kInvalidArgument, _)) << key;
      EXPECT_THAT(ParseUiState(other.dump()), StatusIs(absl::StatusCode::kInvalidArgument, _)) << key;
    }
  }
}

TEST(UiRoutesTest, ThePageIsWholeAndMayDoNothingButAskItsServer) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Get("/ui");
  const HttpAnswer page = client.Read();
  EXPECT_EQ(page.status, 200);
  EXPECT_THAT(page.headers.at("content-type"), HasSubstr("text/html"));
  EXPECT_THAT(page.headers.at("content-security-policy"),
              AllOf(HasSubstr("default-src 'none'"), HasSubstr("script-src 'sha256-"), HasSubstr("style-src 'sha256-"),
                    HasSubstr("connect-src 'self'"), HasSubstr("frame-ancestors 'none'"), Not(HasSubstr("unsafe"))));
  EXPECT_EQ(page.headers.at("x-content-type-options"), "nosniff");
  EXPECT_EQ(page.body, UiPage());
  EXPECT_THAT(page.body, AllOf(HasSubstr("<!doctype html>"), HasSubstr("</html>"), Not(HasSubstr("@STYLE@")),
                               Not(HasSubstr("@SCRIPT@"))));
  // Nothing comes from elsewhere, and no text becomes HTML.
  for (const char* mark :
       {"src=\"http", "href=\"http", "@import", "url(", "innerHTML", "insertAdjacentHTML", "document.write", "eval("}) {
    EXPECT_THAT(page.body, Not(HasSubstr(mark)));
  }
  client.Send("HEAD /ui HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.Read(/*head_only=*/true).status, 200);
}

TEST(UiRoutesTest, TheStateIsTheEnginesAndIsSharedByAllWhoLook) {
  HttpRig rig;
  const auto entropy = MakeSeededEntropy(5);
  const ReplicaSnapshot replica = RandomUiState(*entropy).replica;
  rig.engine.SetSnapshot(replica);
  HttpClient client(rig.port());
  constexpr int kAsks = 200;
  for (int i = 0; i < kAsks; ++i) {
    client.Get("/ui/state?anything=1");
    const HttpAnswer answer = client.Read();
    ASSERT_EQ(answer.status, 200);
    EXPECT_EQ(answer.headers.at("content-type"), "application/json");
    EXPECT_EQ(answer.headers.at("cache-control"), "no-store");
    const absl::StatusOr<UiState> state = ParseUiState(answer.body);
    ASSERT_OK(state);
    EXPECT_EQ(state->model, "tiny");
    EXPECT_TRUE(state->replica == replica);
  }
  EXPECT_GE(rig.engine.looks(), 1);
  EXPECT_LT(rig.engine.looks(), kAsks);
}

TEST(UiRoutesTest, ASilentSchedulerIsUnavailable) {
  HttpRig rig;
  rig.engine.SetSnapshot(absl::UnavailableError("the scheduler did not answer in time"));
  HttpClient client(rig.port());
  client.Get("/ui/state");
  EXPECT_EQ(client.Read().status, 503);
  rig.engine.SetSnapshot(ReplicaSnapshot{});  // a failure is not kept for those who come next
  client.Get("/ui/state");
  EXPECT_EQ(client.Read().status, 200);
}

TEST(UiRoutesTest, ExplainsByIdOfTheQuery) {
  HttpRig rig;
  for (const char* name : {"abc/1", "a&id=b", "<img/src=x>", "%41"}) {
    Explanation explanation;
    explanation.name = name;
    explanation.state = "finished";
    rig.engine.SetExplanation(explanation);
  }
  HttpClient client(rig.port());
  const auto ask = [&](const char* query) {
    client.Get(absl::StrCat("/ui/explain", query));
    return client.Read();
  };
  for (const auto& [query, name] :
       std::vector<std::pair<const char*, const char*>>{{"?id=abc/1", "abc/1"},
                                                        {"?x=1&id=chatcmpl-abc%2F1", "abc/1"},
                                                        {"?id=a%26id%3Db", "a&id=b"},
                                                        {"?id=%3Cimg%2Fsrc%3Dx%3E", "<img/src=x>"},
                                                        {"?id=%2541#fragment", "%41"}}) {
    const HttpAnswer answer = ask(query);
    EXPECT_EQ(answer.status, 200) << query;
    EXPECT_EQ(answer.headers.at("content-type"), "application/json");
    EXPECT_EQ(answer.headers.at("x-content-type-options"), "nosniff");
    EXPECT_EQ(Json::parse(answer.body)["request_id"], name) << query;
  }
  EXPECT_EQ(ask("?id=other").status, 404);
  for (const char* query : {"", "?", "?id", "?id=", "?idea=abc", "?&&=&"}) {
    const HttpAnswer answer = ask(query);
    EXPECT_EQ(answer.status, 400) << query;
    EXPECT_THAT(answer.body, HasSubstr("id is missing"));
  }
}

TEST(UiRoutesTest, OffMeansThatThereIsNothing) {
  HttpRig rig({.ui = false});
  HttpClient client(rig.port());
  for (const char* path : {"/ui", "/ui/state", "/ui/explain?id=a"}) {
    client.Get(path);
    EXPECT_EQ(client.Read().status, 404) << path;
    client.Post(path, "{}");
    EXPECT_EQ(client.Read().status, 404) << path;
  }
  EXPECT_EQ(rig.engine.looks(), 0);
  client.Get("/health");
  EXPECT_EQ(client.Read().status, 200);
}

TEST(UiRoutesTest, OtherMethodsAndPathsAreRefused) {
  HttpRig rig;
  HttpClient client(rig.port());
  client.Post("/ui/state", "{}");
  EXPECT_EQ(client.Read().status, 405);
  client.Get("/ui/style.css");
  EXPECT_EQ(client.Read().status, 404);
}

}  // namespace
}  // namespace interlace
