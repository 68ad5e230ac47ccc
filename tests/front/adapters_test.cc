// Adapters as clients see them: models with a parent, asked for by name at every door.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "checkpoint/peft_adapter.h"
#include "coordinator/front/adapter_registry.h"
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

// Ranks that have whatever they are told, but for what a test says.
class FakeRanks final : public RankAdapters {
 public:
  absl::Status SetAdapters(std::vector<RankAdapter> adapters, absl::Duration) override {
    absl::MutexLock lock(&mutex_);
    lists_.push_back(adapters);
    has_ = std::move(adapters);
    for (const RankAdapter& adapter : has_) {
      if (adapter.path == cannot_) return why_;
    }
    return absl::OkStatus();
  }
  void Cannot(const std::string& path, absl::Status why) {
    absl::MutexLock lock(&mutex_);
    cannot_ = path;
    why_ = std::move(why);
  }
  // Waits until the last list has these paths; false: it does not come to that.
  bool AwaitPaths(const std::set<std::string>& paths) {
    const auto same = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      std::set<std::string> have;
      for (const RankAdapter& adapter : has_) have.insert(adapter.path);
      return have == paths;
    };
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&same), absl::Seconds(30));
  }
  size_t lists() const {
    absl::MutexLock lock(&mutex_);
    return lists_.size();
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<std::vector<RankAdapter>> lists_;  // protected by mutex_, as everything below
  std::vector<RankAdapter> has_;
  std::string cannot_;
  absl::Status why_;
};

// A door over a model with two adapters.
struct Rig {
  explicit Rig(const std::string& folder = "", int64_t most = 64)
      : registry({.model = "tiny", .folder = folder, .most = most, .metrics = &metrics},
                 {Adapter(1, "sql"), Adapter(2, "chat")}, &ranks) {
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

  HttpAnswer Post(absl::string_view path, const Json& body) {
    HttpClient client(front->port());
    client.Post(path, body.dump());
    return client.Read();
  }
  HttpAnswer Load(const std::string& name, const std::string& path, bool in_place = false) {
    return Post("/v1/load_lora_adapter", {{"lora_name", name}, {"lora_path", path}, {"load_inplace", in_place}});
  }
  HttpAnswer Unload(const std::string& name) { return Post("/v1/unload_lora_adapter", {{"lora_name", name}}); }
  std::vector<std::string> Listed() {
    std::vector<std::string> ids;
    const Json list = Json::parse(Get("/v1/models").body);
    for (const Json& card : list["data"]) ids.push_back(card["id"]);
    return ids;
  }

  FakeEngine engine;
  RealClock clock;
  Metrics metrics{"tiny"};
  FakeRanks ranks;
  AdapterRegistry registry;
  Intake intake{{.model = "tiny", .adapters = &registry, .context = kTestContext, .layers = 30, .created = 1700000000},
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

// A folder with adapters "one" and "two", a link "out" that leads to one outside, and "bad", which is no adapter.
class RuntimeAdaptersTest : public testing::Test {
 protected:
  RuntimeAdaptersTest() : root_(absl::StrCat(testing::TempDir(), "/interlace_adapter_root_", getpid())) {
    namespace fs = std::filesystem;
    fs::remove_all(root_);
    for (const auto& [name, seed] : {std::pair{"one", 11}, {"two", 12}}) {
      TinyAdapter(kShape, {.seed = static_cast<uint64_t>(seed)}).Write(absl::StrCat(root_, "/", name));
    }
    fs::create_directory_symlink(outside_.path(), root_ + "/out");
    fs::create_directories(root_ + "/bad");
    std::ofstream(root_ + "/bad/adapter_config.json") << "{}";
    std::ofstream(root_ + "/bad/adapter_model.safetensors") << "none";
  }
  ~RuntimeAdaptersTest() override { std::filesystem::remove_all(root_); }

  static constexpr AdapterShape kShape{.layers = 1, .width = 8, .q = 8, .kv = 8, .feed_forward = 8};
  const AdapterFolder outside_{kShape, {.seed = 9}};
  const std::string root_;
};

using ::testing::ElementsAre;

TEST_F(RuntimeAdaptersTest, AreServedOnceRanksHaveThemAndAnswerAsVllmDoes) {
  Rig rig(root_);
  const HttpAnswer loaded = rig.Load("new", "one");
  EXPECT_EQ(loaded.status, 200) << loaded.body;
  EXPECT_EQ(loaded.body, "Success: LoRA adapter 'new' added successfully.");
  EXPECT_TRUE(rig.ranks.AwaitPaths({"one"}));
  EXPECT_THAT(rig.Listed(), ElementsAre("tiny", "sql", "chat", "new"));
  const auto [answer, adapter] = rig.Ask("/v1/completions", {{"model", "new"}, {"prompt", "a"}});
  EXPECT_EQ(Json::parse(answer.body)["model"], "new");
  EXPECT_EQ(adapter->digest, (*PeftAdapter::Open(root_ + "/one"))->digest());
  rig.engine.Forget(0);
  EXPECT_EQ(rig.Load("absolute", root_ + "/two").status, 200);

  const HttpAnswer again = rig.Load("new", "one");
  EXPECT_EQ(again.status, 400);
  EXPECT_THAT(again.body,
              AllOf(HasSubstr("The lora adapter 'new' has already been loaded. If you want to load the adapter "
                              "in place, set 'load_inplace' to True."),
                    HasSubstr("InvalidUserInput")));
  for (const Json& body : {Json{{"lora_name", "x"}}, Json{{"lora_path", "one"}}, Json::object()}) {
    const HttpAnswer missing = rig.Post("/v1/load_lora_adapter", body);
    EXPECT_EQ(missing.status, 400);
    EXPECT_THAT(missing.body, HasSubstr("Both 'lora_name' and 'lora_path' must be provided."));
  }
  const HttpAnswer nameless = rig.Post("/v1/unload_lora_adapter", Json::object());
  EXPECT_EQ(nameless.status, 400);
  EXPECT_THAT(nameless.body, HasSubstr("'lora_name' needs to be provided to unload a LoRA adapter."));
  const HttpAnswer unknown = rig.Unload("never");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_THAT(unknown.body, AllOf(HasSubstr("The lora adapter 'never' cannot be found."), HasSubstr("NotFoundError")));
  const HttpAnswer gone = rig.Unload("new");
  EXPECT_EQ(gone.body, "Success: LoRA adapter 'new' removed successfully.");
  EXPECT_EQ(rig.Post("/v1/completions", {{"model", "new"}, {"prompt", "a"}}).status, 404);
  EXPECT_TRUE(rig.ranks.AwaitPaths({"two"}));
}

TEST_F(RuntimeAdaptersTest, StayAtTheRanksUntilTheLastRequestHasEnded) {
  Rig rig(root_);
  ASSERT_EQ(rig.Load("new", "one").status, 200);
  HttpClient client(rig.front->port());
  client.Post("/v1/completions", Json{{"model", "new"}, {"prompt", "a"}}.dump());
  std::optional<Request> running = rig.engine.Await(0);
  rig.engine.Forget(0);
  EXPECT_EQ(rig.Unload("new").status, 200);
  EXPECT_EQ(rig.Load("other", "two").status, 200);  // a list that leaves out what nobody uses
  EXPECT_TRUE(rig.ranks.AwaitPaths({"one", "two"}));
  running->sink->OnEnd(EndOf(*running, 0));
  EXPECT_EQ(client.Read().status, 200);
  running.reset();
  EXPECT_TRUE(rig.ranks.AwaitPaths({"two"}));
}

TEST_F(RuntimeAdaptersTest, OneNameAfterAnotherInPlace) {
  Rig rig(root_);
  ASSERT_EQ(rig.Load("new", "one").status, 200);
  const std::shared_ptr<const ServedAdapter> first = rig.registry.Find("new").adapter;
  ASSERT_EQ(rig.Load("new", "two", /*in_place=*/true).status, 200);
  EXPECT_NE(rig.registry.Find("new").adapter->digest, first->digest);
  EXPECT_EQ(rig.registry.Find("new").adapter->id, first->id);
  EXPECT_TRUE(rig.ranks.AwaitPaths({"two"}));
  EXPECT_EQ(rig.Load("twin", "two").status, 200);  // one content, two names
  EXPECT_EQ(rig.Unload("new").status, 200);
  EXPECT_EQ(rig.Load("third", "one").status, 200);
  EXPECT_TRUE(rig.ranks.AwaitPaths({"one", "two"}));
}

TEST_F(RuntimeAdaptersTest, WhatARankCannotHaveIsTakenBack) {
  Rig rig(root_);
  ASSERT_EQ(rig.Load("new", "one").status, 200);
  rig.ranks.Cannot("two", absl::FailedPreconditionError("stage 1: there is no two"));
  const HttpAnswer refused = rig.Load("other", "two");
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("stage 1: there is no two"));
  EXPECT_TRUE(rig.ranks.AwaitPaths({"one"}));
  EXPECT_THAT(rig.Listed(), ElementsAre("tiny", "sql", "chat", "new"));
  rig.ranks.Cannot("two", absl::UnavailableError("no rank is here"));
  EXPECT_EQ(rig.Load("other", "two").status, 503);
  rig.ranks.Cannot("", absl::OkStatus());
  EXPECT_EQ(rig.Load("other", "two").status, 200);
}

TEST_F(RuntimeAdaptersTest, NoPathLeadsOut) {
  Rig rig(root_);
  const size_t before = rig.ranks.lists();
  for (const std::string& path :
       {std::string("../x"), std::string("one/../../x"), std::string("/etc"), std::string("out"), outside_.path(),
        root_ + "/../x", root_ + "x", std::string("..")}) {
    const HttpAnswer refused = rig.Load("new", path);
    EXPECT_EQ(refused.status, 400) << path << refused.body;
    EXPECT_THAT(refused.body, HasSubstr("leads out of model.adapter_dir")) << path;
  }
  std::filesystem::create_directories(root_ + "/half");
  std::filesystem::create_symlink(outside_.path() + "/adapter_config.json", root_ + "/half/adapter_config.json");
  std::filesystem::create_symlink(outside_.path() + "/adapter_model.safetensors",
                                  root_ + "/half/adapter_model.safetensors");
  EXPECT_EQ(rig.Load("new", "half").status, 400);
  const HttpAnswer none = rig.Load("new", "three");
  EXPECT_EQ(none.status, 404);
  EXPECT_THAT(none.body, HasSubstr("Loading lora new failed: No adapter found for three"));
  EXPECT_EQ(rig.Load("new", "bad").status, 400);
  EXPECT_EQ(rig.Load("tiny", "one").status, 400);
  EXPECT_EQ(rig.Load("a,b", "one").status, 400);
  EXPECT_EQ(rig.ranks.lists(), before);
  std::filesystem::create_directory_symlink(root_ + "/one", root_ + "/link");  // it stays inside
  EXPECT_EQ(rig.Load("new", "link").status, 200);
}

TEST_F(RuntimeAdaptersTest, AreBoundInNumber) {
  Rig rig(root_, 3);
  EXPECT_EQ(rig.Load("new", "one").status, 200);
  const HttpAnswer refused = rig.Load("other", "two");
  EXPECT_EQ(refused.status, 400);
  EXPECT_THAT(refused.body, HasSubstr("model.max_adapters=3"));
  EXPECT_EQ(rig.Load("new", "two", /*in_place=*/true).status, 200);
  EXPECT_EQ(rig.Unload("sql").status, 200);  // of the start, too
  EXPECT_EQ(rig.Load("other", "one").status, 200);
}

TEST_F(RuntimeAdaptersTest, WhatALaterRankCannotHaveIsWithdrawn) {
  Rig rig(root_);
  ASSERT_EQ(rig.Load("new", "one").status, 200);
  ASSERT_EQ(rig.Load("twin", "one").status, 200);
  ASSERT_EQ(rig.Load("other", "two").status, 200);
  rig.registry.Withdraw(rig.registry.Find("new").adapter->digest, absl::NotFoundError("stage 0: gone"));
  EXPECT_TRUE(rig.ranks.AwaitPaths({"two"}));
  EXPECT_THAT(rig.Listed(), ElementsAre("tiny", "sql", "chat", "other"));
  rig.registry.Forget();
  EXPECT_TRUE(rig.ranks.AwaitPaths({}));
  EXPECT_THAT(rig.Listed(), ElementsAre("tiny", "sql", "chat"));
}

TEST_F(RuntimeAdaptersTest, AreNotThereUnlessASettingSaysSo) {
  Rig off;
  for (const char* path : {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}) {
    const HttpAnswer answer = off.Post(path, Json{{"lora_name", "new"}, {"lora_path", "one"}});
    EXPECT_EQ(answer.status, 404);
    EXPECT_THAT(answer.body, HasSubstr("model.runtime_adapters=true"));
    EXPECT_FALSE(Json::parse(off.Get("/openapi.json").body)["paths"].contains(path));
    Rig on(root_);
    EXPECT_TRUE(Json::parse(on.Get("/openapi.json").body)["paths"].contains(path));
    EXPECT_EQ(on.Get(path).status, 405);
  }
}

TEST_F(RuntimeAdaptersTest, AreForOperatorsAlone) {
  const std::string keys = root_ + "/keys.json";
  std::ofstream(keys) << R"({"tenants":[{"name":"acme","keys":["sk-acme"]},{"name":"ops","keys":["sk-ops"],)"
                      << R"("operator":true}]})";
  std::filesystem::permissions(keys, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  Rig rig(root_);
  Tenants tenants({.file = keys}, rig.clock, rig.metrics);
  ASSERT_OK(tenants.Read());
  auto front = HttpFront::Listen({.tenants = &tenants}, rig.intake, rig.metrics);
  ASSERT_OK(front);
  const auto load = [&](absl::string_view headers) {
    HttpClient client((*front)->port());
    client.Post("/v1/load_lora_adapter", R"({"lora_name":"new","lora_path":"one"})", headers);
    return client.Read().status;
  };
  EXPECT_EQ(load(""), 401);
  EXPECT_EQ(load("Authorization: Bearer sk-acme\r\n"), 403);
  EXPECT_EQ(rig.registry.Find("new").adapter, nullptr);
  EXPECT_EQ(load("Authorization: Bearer sk-ops\r\nOrigin: http://127.0.0.1:8000\r\n"), 403) << "a page in a browser";
  EXPECT_EQ(load("Authorization: Bearer sk-ops\r\n"), 200);
}

TEST_F(RuntimeAdaptersTest, MetricsNameThoseOfRequests) {
  Rig rig(root_, 5);
  EngineLoad load{.ranks_ready = 1, .ranks = 1};
  load.running_adapters = {"chat", "sql"};
  load.waiting_adapters = {"sql"};
  rig.engine.SetLoad(load);
  const auto lines = [&] {
    std::vector<std::string> found;
    for (const absl::string_view line : absl::StrSplit(rig.Get("/metrics").body, '\n')) {
      if (absl::StartsWith(line, "vllm:lora_requests_info{")) found.emplace_back(line);
    }
    return found;
  };
  EXPECT_THAT(lines(), ElementsAre(AllOf(HasSubstr("max_lora=\"5\""), HasSubstr("running_lora_adapters=\"chat,sql\""),
                                         HasSubstr("waiting_lora_adapters=\"sql\""))));
  load.running_adapters.clear();
  rig.engine.SetLoad(load);
  EXPECT_THAT(lines(), ElementsAre(HasSubstr("running_lora_adapters=\"\"")));
}

}  // namespace
}  // namespace interlace
