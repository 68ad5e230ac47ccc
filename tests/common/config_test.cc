#include "common/config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ConfigTest, EveryFieldParsesWhatItPrints) {
  for (const ConfigField& field : ConfigSchema()) {
    Config config;
    const std::string text = field.print(config);
    EXPECT_OK(field.parse(config, text)) << field.name;
    EXPECT_EQ(field.print(config), text) << field.name;
    EXPECT_FALSE(field.meaning.empty()) << field.name;
  }
}

TEST(ConfigTest, UnknownFieldsAreRefusedWithTheirGroup) {
  ConfigBuilder builder;
  EXPECT_THAT(
      builder.Set("kv.keep_layer=3", "test"),
      StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("kv.keep_layer"), HasSubstr("kv.keep_layers"))));
  EXPECT_THAT(builder.Set("nothing=3", "test"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nothing")));
  EXPECT_THAT(builder.Set("kv.keep_layers", "test"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("=")));
  EXPECT_THAT(builder.Set("kv.host_bytes=lots", "test"),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("kv.host_bytes"), HasSubstr("lots"))));
}

TEST(ConfigTest, AFileWithoutEndIsRefused) {
  ConfigBuilder builder;
  EXPECT_THAT(builder.ReadFile("/dev/zero"),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("/dev/zero"), HasSubstr("bytes"))));
}

TEST(ConfigTest, LaterOriginsWinAndAreNamed) {
  const std::string path = ::testing::TempDir() + "/interlace_config_test.conf";
  std::ofstream(path) << "# a comment\n\nkv.host_bytes = 2MiB\nsched.max_running = 3  # and more\n";
  setenv("INTERLACE_SCHED_MAX_RUNNING", "4", 1);
  setenv("INTERLACE_SERVER_HTTP_PORT", "tcp://10.0.0.1:80", 1);  // a Kubernetes service link, not ours
  ConfigBuilder builder;
  ASSERT_OK(builder.ReadFile(path));
  ASSERT_OK(builder.ReadEnvironment());
  ASSERT_OK(builder.Set("kv.keep_layers=7", "command line"));
  unsetenv("INTERLACE_SCHED_MAX_RUNNING");
  unsetenv("INTERLACE_SERVER_HTTP_PORT");
  const absl::StatusOr<Config> config = builder.Build();
  ASSERT_OK(config);
  EXPECT_EQ(config->kv.host_bytes.value, 2 << 20);
  EXPECT_EQ(config->sched.max_running, 4);
  EXPECT_EQ(config->server.http_port, 8000);
  EXPECT_THAT(builder.OriginOf("kv.host_bytes"), HasSubstr(":3"));
  EXPECT_EQ(builder.OriginOf("sched.max_running"), "environment INTERLACE_SCHED_MAX_RUNNING");
  EXPECT_EQ(builder.OriginOf("kv.keep_layers"), "command line");
  EXPECT_EQ(builder.OriginOf("server.http_port"), "default");
}

TEST(ConfigTest, FieldsThatDoNotFitTogetherAreRefused) {
  for (const auto& [assignment, text] :
       std::vector<std::pair<std::string, std::string>>{{"cluster.stage=1", "cluster.stage"},
                                                        {"cluster.sequence_rank=1", "must lie in [0, 1)"},
                                                        {"kv.block_tokens=12", "multiple of 8"},
                                                        {"kv.keep_layers=some", "auto"},
                                                        {"kv.tiers=remote", "kv.remote"},
                                                        {"kv.tiers=host,rocksdb", "kv.rocksdb_dir"},
                                                        {"kv.tiers=host,,", "empty entry"},
                                                        {"kv.tiers=host,host", "twice"},
                                                        {"model.runtime_adapters=true", "needs model.adapter_dir"},
                                                        {"skip.explore=1.5", "share from 0 to 1"},
                                                        {"skip.explore=some", "share from 0 to 1"},
                                                        {"skip.bounded_share=0", "share above 0"},
                                                        {"skip.least_agreement=1.01", "share above 0"},
                                                        {"skip.least_agreement=most", "share above 0"},
                                                        {"skip.layer=-1", "layer of the model"}}) {
    ConfigBuilder builder;
    ASSERT_OK(builder.Set(assignment, "test"));
    EXPECT_THAT(builder.Build(), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(text))) << assignment;
  }
  ConfigBuilder both;
  for (const char* ranks : {"cluster.sequence_ranks=2", "cluster.tensor_ranks=3"}) ASSERT_OK(both.Set(ranks, "test"));
  EXPECT_THAT(both.Build(), StatusIs(absl::StatusCode::kInvalidArgument,
                                     HasSubstr("cluster.sequence_ranks=2 with cluster.tensor_ranks=3")));
}

TEST(ConfigTest, NonsenseIsRefusedByNameAndChangesNothing) {
  for (const char* assignment : {"sched.step_tokens=4294967296",
                                 "sched.step_tokens=0",
                                 "http.ui=maybe",
                                 "http.ui=",
                                 "sched.chunk_tokens=0",
                                 "sched.chunk_tokens=-1",
                                 "sched.max_running=0",
                                 "sched.max_running=2147483648",
                                 "sched.max_waiting=4294967297",
                                 "sched.max_recomputes=-1",
                                 "cluster.stages=99999999999",
                                 "cluster.stages=0",
                                 "cluster.rank_timeout=0s",
                                 "kv.read_timeout=0s",
                                 "request.deadline=0s",
                                 "request.max_body=0",
                                 "request.max_body=4GiB",
                                 "request.max_tokens=4294967296",
                                 "server.http_port=65536",
                                 "server.grpc_port=-1",
                                 "engine.threads=99999",
                                 "kv.device_bytes=0",
                                 "skip.index_bytes=1000KiB",
                                 "skip.index=yes",
                                 "skip.bounded=maybe",
                                 "skip.audit_every=0",
                                 "slo.ttft=0s",
                                 "slo.tpot=9000h",
                                 "slo.largest_gap=0"}) {
    ConfigBuilder builder;
    const std::string name(assignment, std::string(assignment).find('='));
    EXPECT_THAT(builder.Set(assignment, "test"),
                StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr(name), HasSubstr("it must be"))))
        << assignment;
    for (const ConfigField& field : ConfigSchema())
      EXPECT_EQ(field.print(builder.values()), field.print(Config())) << name;
  }
}

TEST(ConfigTest, ATargetIsADurationOrNone) {
  ConfigBuilder builder;
  EXPECT_FALSE(builder.values().slo.ttft || builder.values().slo.tpot || builder.values().slo.largest_gap);
  ASSERT_OK(builder.Set("slo.ttft=1500ms", "file"));
  ASSERT_OK(builder.Set("slo.tpot=12.5ms", "file"));
  ASSERT_OK(builder.Set("slo.largest_gap=4s", "file"));
  EXPECT_EQ(builder.values().slo.ttft, absl::Milliseconds(1500));
  EXPECT_EQ(builder.values().slo.tpot, absl::Microseconds(12500));
  EXPECT_EQ(builder.values().slo.largest_gap, absl::Seconds(4));
  for (const ConfigField& field : ConfigSchema()) {  // what is printed reads as the same, also where a value is set
    Config config;
    EXPECT_OK(field.parse(config, field.print(builder.values()))) << field.name;
    EXPECT_EQ(field.print(config), field.print(builder.values())) << field.name;
  }
  ASSERT_OK(builder.Set("slo.ttft=", "command line"));
  EXPECT_FALSE(builder.values().slo.ttft);
  EXPECT_THAT(builder.Set("slo.tpot=fast", "test"),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("slo.tpot"), HasSubstr("fast"))));
}

TEST(ConfigTest, AModelsLayersBoundStagesAndLayersKept) {
  const auto check = [](int64_t stages, const std::string& keep) {
    Config config;
    config.cluster.stages = stages;
    config.kv.keep_layers = keep;
    return CheckLayers(config, 30);
  };
  EXPECT_OK(check(30, "auto"));
  EXPECT_OK(check(1, "30"));
  EXPECT_THAT(check(31, "auto"), StatusIs(absl::StatusCode::kInvalidArgument,
                                          AllOf(HasSubstr("cluster.stages=31"), HasSubstr("30 layers"))));
  EXPECT_THAT(check(1, "31"), StatusIs(absl::StatusCode::kInvalidArgument,
                                       AllOf(HasSubstr("kv.keep_layers=31"), HasSubstr("30 layers"))));
}

TEST(ConfigTest, TheLayerOfKeysIsOneOfTheModelsWhereKeysAreTaken) {
  const auto check = [](const char* speculate, int64_t layer, int32_t layers, bool index = true) {
    Config config;
    config.sched.speculate = speculate;
    config.skip.layer = layer;
    config.skip.index = index;
    return CheckLayers(config, layers);
  };
  EXPECT_OK(check("self", 29, 30));
  EXPECT_OK(check("auto", 1, 1)) << "the default suits every model";
  EXPECT_OK(check("ngram", 30, 30));
  EXPECT_OK(check("self", 30, 30, /*index=*/false));
  for (const char* speculate : {"self", "auto"}) {
    EXPECT_THAT(check(speculate, 30, 30), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("skip.layer=30")));
  }
}

TEST(ConfigTest, SizesReadAndPrint) {
  for (const auto& [text, bytes] : std::vector<std::pair<std::string, int64_t>>{
           {"4096", 4096}, {"32MiB", 32 << 20}, {"1.5GiB", 3ll << 29}, {"8k", 8192}, {"1MB", 1000000}, {"0", 0}}) {
    Bytes value;
    ASSERT_OK(ParseBytes(text, &value)) << text;
    EXPECT_EQ(value.value, bytes) << text;
    Bytes again;
    ASSERT_OK(ParseBytes(PrintBytes(value), &again));
    EXPECT_EQ(again, value);
  }
  Bytes value;
  for (const char* text : {"", "MiB", "-1", "1e30GiB", "12 apples", "nan"})
    EXPECT_FALSE(ParseBytes(text, &value).ok()) << text;
}

}  // namespace
}  // namespace interlace
