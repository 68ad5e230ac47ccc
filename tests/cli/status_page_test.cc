#include "cli/status_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/entropy.h"
#include "tests/front/random_snapshot.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ClusterLook Look() {
  ClusterLook look;
  look.url = "http://127.0.0.1:8000";
  look.version = "1.0";
  look.health = "ok";
  look.model = "tiny";
  look.context = 2048;
  look.ranks = look.ranks_ready = 2;
  ReplicaSnapshot& replica = look.state.replica;
  replica.policy = "slack";
  replica.uptime = absl::Minutes(90);
  replica.layers = 30;
  replica.slot_bytes = 1024;
  replica.stages = {{.layer_begin = 0, .layer_end = 20, .device = {.held = 3, .cached = 2, .ring = 1, .total = 8}},
                    {.layer_begin = 20, .layer_end = 30, .device = {.total = 4}, .host = {.held = 1, .total = 2}}};
  replica.running = 3;
  replica.waiting = 7;
  replica.slo.finished = 11;
  replica.slo.ttft = {.met = 9, .missed = 1};
  replica.seconds = {{.tokens = 100, .positions = 200}, {.tokens = 300, .positions = 400}};
  look.metrics = MetricSamples("interlace_kv_tier_bytes{stage=\"0\",tier=\"rocksdb\"} 2048\n");
  return look;
}

TEST(StatusPageTest, SaysOfSeveralReplicasWhatEachIsFor) {
  ClusterLook look = Look();
  look.state.replica.replicas = {{.ranks = 2, .ranks_ready = 2, .running = 3, .role = "prefill"},
                                 {.ranks = 2, .ranks_ready = 2, .running = 1, .role = "decode", .draining = true},
                                 {.ranks = 2, .ranks_ready = 2, .draining = true},
                                 {.ranks = 2, .ranks_ready = 1}};
  const std::string page = StatusPage(look, std::nullopt);
  EXPECT_THAT(page, HasSubstr("replica 0   prefill, 3 running, 0 waiting\n"));
  EXPECT_THAT(page, HasSubstr("replica 1   decode, 1 running, 0 waiting, draining"));
  EXPECT_THAT(page, HasSubstr("replica 2   0 running, 0 waiting, drained"));
  EXPECT_THAT(page, HasSubstr("replica 3   1 of 2 ranks ready"));
  const auto json = nlohmann::json::parse(StatusJson(look, std::nullopt));
  EXPECT_EQ(json["replicas"][1]["role"], "decode");
  EXPECT_EQ(json["replicas"][1]["draining"], true);
}

TEST(StatusPageTest, IsOnePageOfWhatIsSo) {
  const std::string page = StatusPage(Look(), std::nullopt);
  EXPECT_THAT(page, HasSubstr("ready"));
  EXPECT_THAT(page, HasSubstr("tiny, context 2048 tokens"));
  EXPECT_THAT(page, HasSubstr("2 of 2 ready, 30 layers in 2 stages"));
  EXPECT_THAT(page, HasSubstr("slack, up 1h30m"));
  EXPECT_THAT(page, HasSubstr("3 running, 0 streaming, 0 parked, 0 fetching, 7 waiting; 11 finished, 0 failed"));
  EXPECT_THAT(page, HasSubstr("200 tokens/s generated, 300 computed"));
  EXPECT_THAT(page, HasSubstr("TTFT 90.0 %"));
  EXPECT_THAT(page, HasSubstr("4.0 KiB  2.0 KiB  8.0 KiB"));
  EXPECT_THAT(page, HasSubstr("rocksdb"));
  EXPECT_THAT(page, Not(HasSubstr("\x1b"))) << "no colours where it is piped";
}

TEST(StatusPageTest, SaysWhatADrainWaitsForAndWhatIsNotKnown) {
  ClusterLook look = Look();
  look.health = "draining";
  EXPECT_THAT(StatusPage(look, DrainProgress{.draining = true, .left = 3}), HasSubstr("draining: 3 requests left"));
  look.health = "waiting for ranks";
  EXPECT_THAT(StatusPage(look, std::nullopt), HasSubstr("waiting for ranks"));
  look.state_known = absl::PermissionDeniedError("it needs a key");
  const std::string page = StatusPage(look, std::nullopt);
  EXPECT_THAT(page, HasSubstr("not known: it needs a key"));
  EXPECT_THAT(page, Not(HasSubstr("requests")));
}

TEST(StatusPageTest, JsonHasTheSameNumbers) {
  const nlohmann::json json =
      nlohmann::json::parse(StatusJson(Look(), DrainProgress{.draining = false, .left = 3, .cut = 1}));
  EXPECT_EQ(json["state"], "ok");
  EXPECT_EQ(json["context"], 2048);
  EXPECT_EQ(json["requests"]["waiting"], 7);
  EXPECT_EQ(json["rates"]["generated_tokens_per_second"], 200);
  EXPECT_EQ(json["drain"]["requests_left"], 3);
  ASSERT_EQ(json["kv"].size(), 5u);
  EXPECT_EQ(json["kv"][0]["tier"], "device");
  EXPECT_EQ(json["kv"][0]["bytes_held"], 4096);
  EXPECT_EQ(json["kv"][4]["tier"], "rocksdb");
  EXPECT_EQ(json["kv"][4]["bytes_cached"], 2048);
  EXPECT_TRUE(json["kv"][4]["bytes_total"].is_null());
}

// Whatever a replica looks like, there is a page, and JSON that is JSON.
TEST(StatusPageTest, AnyReplicaHasAPage) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
    ClusterLook look = Look();
    look.state = RandomUiState(*entropy);
    EXPECT_THAT(StatusPage(look, std::nullopt), HasSubstr("targets"));
    EXPECT_TRUE(nlohmann::json::accept(StatusJson(look, std::nullopt)));
  }
}

}  // namespace
}  // namespace interlace
