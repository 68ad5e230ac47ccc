// Adapters as clients see them: models with a parent, asked for by name at every door.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "coordinator/front/http_front.h"
#include "coordinator/front/served_adapters.h"
#include "tests/front/http_client.h"
#include "tests/front/text_model.h"
#include "tests/model/tiny_adapter.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::shared_ptr<const ServedAdapter> Adapter(int32_t id, const std::string& name) {
  return std::make_shared<const ServedAdapter>(ServedAdapter{id, name, "/adapters/" + name, "digest of " + name});
}

// A door over a model with two adapters.
struct Rig {
  Rig() {
    absl::StatusOr<std::unique_ptr<HttpFront>> listening = HttpFront::Listen({.gate = &gate}, intake, metrics);
    CHECK(listening.ok());
    front = *std::move(listening);
  }
  // The answer to `body`, which the engine ends at once, and the adapter of the request.
  std::pair<HttpAnswer, std::shared_ptr<const ServedAdapter>> Ask(absl::string_view path, const Json& body) {
    HttpClient client(front->port());
    client.Post(path, body.dump());
    const Request request = engine.Await(asked++);
    if (request.pooled) request.sink->OnPooled(std::vector<float>{1, 0});
    request.sink->OnEnd(EndOf(request, 0));
    return {client.Read(), request.adapter};
  }
  HttpAnswer Get(absl::string_view path) {
    HttpClient client(front->port());
    client.Get(path);
    return client.Read();
  }

  FakeEngine engine;
  RealClock clock;
  Metrics metrics{"tiny"};
  Intake intake{{.model = "tiny",
                 .adapters = {Adapter(1, "sql"), Adapter(2, "chat")},
                 .context = kTestContext,
                 .layers = 30,
                 .created = 1700000000},
                *TestText().tokenizer,
                TestText().chat_template.get(),
                engine,
                clock,
                MakeSeededEntropy(7)};
  DrainGate gate{engine, clock, metrics};
  std::unique_ptr<HttpFront> front;
  size_t asked = 0;
};

TEST(AdaptersTest, AreListedAsModelsWithAParent) {
  Rig rig;
  const Json list = Json::parse(rig.Get("/v1/models").body)["data"];
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0]["id"], "tiny");
  EXPECT_TRUE(list[0]["parent"].is_null());
  for (size_t i = 1; i < list.size(); ++i) {
    EXPECT_EQ(list[i]["id"], i == 1 ? "sql" : "chat");
    EXPECT_EQ(list[i]["object"], "model");
    EXPECT_EQ(list[i]["parent"], "tiny");
    EXPECT_EQ(list[i]["root"], i == 1 ? "/adapters/sql" : "/adapters/chat");
    EXPECT_EQ(list[i]["max_model_len"], kTestContext);
    EXPECT_EQ(Json::parse(rig.Get("/v1/models/" + list[i]["id"].get<std::string>()).body), list[i]);
  }
  EXPECT_EQ(rig.Get("/v1/models/none").status, 404);
  rig.engine.SetLoad({.ranks_ready = 1, .ranks = 2});
  EXPECT_TRUE(Json::parse(rig.Get("/v1/models").body)["data"].empty());
  EXPECT_EQ(rig.Get("/v1/models/sql").status, 503);
}

TEST(AdaptersTest, EveryDoorTakesTheirNamesAndAnswersUnderThem) {
  Rig rig;
  const Json messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
  const std::pair<const char*, Json> doors[] = {
      {"/v1/completions", {{"prompt", "a"}}}, {"/v1/chat/completions", {{"messages", messages}}},
      {"/v1/responses", {{"input", "a"}}},    {"/v1/messages", {{"messages", messages}, {"max_tokens", 3}}},
      {"/v1/embeddings", {{"input", "a"}}},
  };
  for (const auto& [path, body] : doors) {
    for (const char* model : {"tiny", "sql", "chat"}) {
      Json asked = body;
      asked["model"] = model;
      const auto [answer, adapter] = rig.Ask(path, asked);
      EXPECT_EQ(answer.status, 200) << path << " " << answer.body;
      EXPECT_EQ(Json::parse(answer.body)["model"], model) << path;
      EXPECT_EQ(adapter == nullptr ? "tiny" : adapter->name, model) << path;
    }
    HttpClient client(rig.front->port());
    Json asked = body;
    asked["model"] = "other";
    client.Post(path, asked.dump());
    const HttpAnswer answer = client.Read();
    EXPECT_EQ(answer.status, 404) << path;
    EXPECT_THAT(answer.body, HasSubstr("'tiny', 'sql', 'chat' are")) << path;
  }
  const auto [answer, adapter] = rig.Ask("/v1/completions", {{"prompt", "a"}});  // no model: the model itself
  EXPECT_EQ(Json::parse(answer.body)["model"], "tiny");
  EXPECT_EQ(adapter, nullptr);
}

TEST(AdaptersTest, SmallRoutesKnowTheirNames) {
  Rig rig;
  for (const auto& [model, status] : {std::pair{"sql", 200}, {"other", 404}}) {
    HttpClient client(rig.front->port());
    client.Post("/tokenize", Json{{"model", model}, {"prompt", "a"}}.dump());
    EXPECT_EQ(client.Read().status, status);
  }
}

TEST(AdaptersTest, AreReadFromTheirFolders) {
  const AdapterShape shape{.layers = 1, .width = 8, .q = 8, .kv = 8, .feed_forward = 8};
  const AdapterFolder one(shape, {.seed = 1}), two(shape, {.seed = 2});
  const auto adapters =
      ReadServedAdapters(absl::StrCat("b=", two.path(), ",a=", one.path(), ",again=", one.path()), "tiny");
  ASSERT_OK(adapters);
  ASSERT_EQ(adapters->size(), 3u);
  EXPECT_EQ((*adapters)[0]->name, "b");
  EXPECT_EQ((*adapters)[0]->id, 1);
  EXPECT_EQ((*adapters)[2]->id, 3);
  EXPECT_EQ((*adapters)[1]->folder, one.path());
  EXPECT_EQ((*adapters)[1]->digest, (*adapters)[2]->digest);
  const std::vector<std::string> digests = DigestsOf(*adapters);
  EXPECT_EQ(digests.size(), 2u);
  EXPECT_TRUE(std::is_sorted(digests.begin(), digests.end()));
  EXPECT_EQ(FindAdapter(*adapters, "a"), (*adapters)[1]);
  EXPECT_EQ(FindAdapter(*adapters, "tiny"), nullptr);
  EXPECT_TRUE(ReadServedAdapters("", "tiny")->empty());
  EXPECT_THAT(ReadServedAdapters(absl::StrCat("tiny=", one.path()), "tiny").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'tiny' is the name of the model itself")));
  EXPECT_THAT(ReadServedAdapters("a=/nowhere", "tiny").status(),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("model.adapters=a"), HasSubstr("/nowhere"))));
}

}  // namespace
}  // namespace interlace
