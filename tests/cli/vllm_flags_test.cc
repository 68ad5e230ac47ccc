#include "cli/vllm_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/config.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

struct Parsed {
  std::vector<std::pair<std::string, std::string>> settings;
  std::string refusal;  // empty: it was taken
  std::string model;
};

Parsed Parse(const std::vector<std::string>& arguments) {
  Parsed parsed;
  CLI::App app("test");
  app.add_option("MODEL", parsed.model);
  AddVllmFlags(&app, &parsed.settings);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& e) {
    parsed.refusal = e.what();
  }
  return parsed;
}

TEST(VllmFlags, NameSettings) {
  EXPECT_THAT(Parse({"m", "--max-model-len", "25.6k"}).settings, ElementsAre(Pair("model.max_len", "25600")));
  EXPECT_THAT(Parse({"--served-model-name", "small", "m"}).settings, ElementsAre(Pair("model.name", "small")));
  EXPECT_THAT(Parse({"--kv-cache-memory-bytes=8G"}).settings, ElementsAre(Pair("kv.device_bytes", "8G")));
  EXPECT_THAT(Parse({"--kv-offloading-size", "1.5"}).settings, ElementsAre(Pair("kv.host_bytes", "1610612736")));
  EXPECT_THAT(Parse({"--kv-cache-dtype", "bfloat16"}).settings, ElementsAre(Pair("kv.dtype", "bf16")));
  EXPECT_THAT(Parse({"--kv-cache-dtype", "auto"}).settings, ElementsAre());
  EXPECT_THAT(Parse({"--max-model-len", "auto"}).settings, ElementsAre(Pair("model.max_len", "0")));
  EXPECT_THAT(Parse({"--allowed-origins", "[\"http://a\", \"http://b\"]"}).settings,
              ElementsAre(Pair("http.cors", "http://a,http://b")));
  EXPECT_THAT(
      Parse({"m", "--lora-modules", "sql=/a", R"({"name": "chat", "path": "/b", "base_model_name": "m"})"}).settings,
      ElementsAre(Pair("model.adapters", "sql=/a,chat=/b")));
  EXPECT_THAT(Parse({"--shutdown-timeout", "20"}).settings, ElementsAre(Pair("server.drain_timeout", "20s")));
}

// A value that each flag takes, and that its setting takes in turn.
TEST(VllmFlags, EachNamesASettingThatTakesItsValue) {
  const std::map<std::string, std::string> values = {
      {"--max-model-len", "4096"},        {"--max-num-seqs", "16"},
      {"--max-num-batched-tokens", "2k"}, {"--block-size", "16"},
      {"--kv-cache-dtype", "int8"},       {"--kv-cache-memory-bytes", "64MiB"},
      {"--kv-offloading-size", "4"},      {"--lora-modules", "a=b"},
      {"--scheduling-policy", "fcfs"},    {"--tool-call-parser", "llama3_json"},
      {"--reasoning-parser", "qwen3"},    {"--allowed-origins", "*"},
      {"--shutdown-timeout", "0.5"},      {"--uvicorn-log-level", "warning"},
      {"--max-lora-rank", "16"}};
  for (const VllmFlag& flag : VllmFlags()) {
    const auto found = values.find(std::string(flag.flag));
    const Parsed parsed = Parse({std::string(flag.flag), found == values.end() ? "text" : found->second});
    EXPECT_EQ(parsed.refusal, "");
    ASSERT_EQ(parsed.settings.size(), 1u) << flag.flag;
    EXPECT_EQ(parsed.settings[0].first, flag.field);
    ConfigBuilder builder;
    EXPECT_OK(builder.Set(absl::StrCat(flag.field, "=", parsed.settings[0].second), "test")) << flag.flag;
  }
}

TEST(VllmFlags, WhatIsNotBuiltInIsRefusedByNameWithTheWayOut) {
  for (const UnbuiltFlag& flag : UnbuiltVllmFlags()) {
    for (const std::vector<std::string>& arguments : {std::vector<std::string>{"m", std::string(flag.flag)},
                                                      {"m", absl::StrCat(flag.flag, "=x")},
                                                      {std::string(flag.flag), "x", "m"}}) {
      const Parsed parsed = Parse(arguments);
      EXPECT_THAT(parsed.refusal, HasSubstr(std::string(flag.flag)));
      EXPECT_THAT(parsed.refusal, HasSubstr(std::string(flag.instead)));
    }
  }
}

TEST(VllmFlags, TheUsualValueOfWhatIsNotBuiltInAsksForNothing) {
  size_t usual = 0;
  for (const UnbuiltFlag& flag : UnbuiltVllmFlags()) {
    if (flag.usual.empty()) continue;
    const Parsed parsed = Parse({std::string(flag.flag), std::string(flag.usual), "m"});
    EXPECT_EQ(parsed.refusal, "") << flag.flag;
    EXPECT_EQ(parsed.model, "m");
    EXPECT_TRUE(parsed.settings.empty());
    ++usual;
  }
  EXPECT_GT(usual, 0u);
}

TEST(VllmFlags, WhatIsSoAnywayIsTakenAndChangesNothing) {
  for (const absl::string_view flag : NeedlessVllmFlags()) {
    const Parsed parsed = Parse({std::string(flag), "m"});
    EXPECT_EQ(parsed.refusal, "") << flag;
    EXPECT_EQ(parsed.model, "m") << flag;
    EXPECT_TRUE(parsed.settings.empty());
  }
}

TEST(VllmFlags, WhatHasNoBoundHereTakesAnyValue) {
  for (const absl::string_view flag : BoundlessVllmFlags()) {
    const Parsed parsed = Parse({std::string(flag), "4", "m"});
    EXPECT_EQ(parsed.refusal, "") << flag;
    EXPECT_EQ(parsed.model, "m") << flag;
    EXPECT_TRUE(parsed.settings.empty());
  }
}

TEST(VllmFlags, BadValuesNameTheFlag) {
  for (const auto& [flag, value] : std::vector<std::pair<std::string, std::string>>{{"--max-model-len", "many"},
                                                                                    {"--max-model-len", "1.5"},
                                                                                    {"--max-num-seqs", "-3"},
                                                                                    {"--kv-cache-dtype", "fp8_e4m3"},
                                                                                    {"--scheduling-policy", "lifo"},
                                                                                    {"--lora-modules", "/a"},
                                                                                    {"--lora-modules", "{\"name\":1}"},
                                                                                    {"--lora-modules", "a=b,c=d"},
                                                                                    {"--kv-offloading-size", "all"}}) {
    const Parsed parsed = Parse({absl::StrCat(flag, "=", value)});
    EXPECT_THAT(parsed.refusal, HasSubstr(flag));
    EXPECT_THAT(parsed.refusal, HasSubstr(value));
  }
}

TEST(VllmFlags, HelpShowsThoseThatNameSettingsAlone) {
  CLI::App app("test");
  std::vector<std::pair<std::string, std::string>> settings;
  AddVllmFlags(&app, &settings);
  const std::string help = app.help();
  for (const VllmFlag& flag : VllmFlags()) EXPECT_THAT(help, HasSubstr(absl::StrCat("\n  ", flag.flag)));
  for (const UnbuiltFlag& flag : UnbuiltVllmFlags()) EXPECT_THAT(help, Not(HasSubstr(absl::StrCat("\n  ", flag.flag))));
  for (const absl::string_view flag : BoundlessVllmFlags())
    EXPECT_THAT(help, Not(HasSubstr(absl::StrCat("\n  ", flag))));
  for (const absl::string_view flag : NeedlessVllmFlags())
    EXPECT_THAT(help, Not(HasSubstr(absl::StrCat("\n  ", flag))));
}

TEST(VllmFlags, SpellingsBehindServeAreMadeOurs) {
  EXPECT_THAT(WithOurSpelling({"serve", "m_x", "-tp", "2", "-pp=3", "--max_model_len=a_b", "--set", "kv.dtype=f_32"}),
              ElementsAre("serve", "m_x", "--tensor-parallel-size", "2", "--pipeline-parallel-size=3",
                          "--max-model-len=a_b", "--set", "kv.dtype=f_32"));
  EXPECT_THAT(WithOurSpelling({"serve", "--", "--a_b"}), ElementsAre("serve", "--", "--a_b"));
  EXPECT_THAT(WithOurSpelling({"chat", "-tp"}), ElementsAre("chat", "-tp"));
  EXPECT_TRUE(WithOurSpelling({}).empty());
}

TEST(ParseCountTest, ReadsAsVllmDoes) {
  for (const auto& [text, count] : std::map<std::string, int64_t>{{"8192", 8192},
                                                                  {"25.6k", 25600},
                                                                  {"1k", 1000},
                                                                  {"1K", 1024},
                                                                  {"2m", 2000000},
                                                                  {"2M", 2 << 20},
                                                                  {"0.5g", 500000000},
                                                                  {"1G", 1 << 30},
                                                                  {"0", 0}}) {
    EXPECT_EQ(ParseCount(text).value_or(-1), count) << text;
  }
  for (const char* text :
       {"", "k", "25.6", "25.6K", "1.0005k", "-1", "1e3", "1 k", "kk", "1.2.3k", "99999999999999999999"}) {
    EXPECT_THAT(ParseCount(text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("25.6k"))) << text;
  }
}

}  // namespace
}  // namespace interlace
