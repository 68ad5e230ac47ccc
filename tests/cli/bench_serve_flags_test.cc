// What a command line of `interlace bench serve` means, and what is said of those that mean nothing.
#include "cli/bench_serve_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <string>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<BenchServeOptions> Parse(const std::string& line) {
  CLI::App app("test");
  BenchServeFlags flags;
  flags.AddTo(&app);
  app.parse(line, /*program_name_included=*/false);
  return flags.Finish();
}

TEST(BenchServeFlags, ARateIsAPoissonProcessOverTokenIds) {
  const auto options = Parse("--rate 4");
  ASSERT_OK(options);
  EXPECT_EQ(options->plan.arrivals.process, "poisson");
  EXPECT_THAT(options->rates, ElementsAre(4.0));
  EXPECT_EQ(options->protocol, "openai-completions");
  EXPECT_EQ(options->client.url, "http://127.0.0.1:8000");
  EXPECT_TRUE(options->plan.dataset.ids);
  EXPECT_EQ(options->plan.duration, absl::Seconds(30));
  EXPECT_TRUE(options->stop_when_saturated);
}

TEST(BenchServeFlags, TheProcessFollowsFromWhatIsGiven) {
  const auto process = [](const std::string& line) {
    const auto options = Parse(line);
    return options.ok() ? options->plan.arrivals.process : std::string(options.status().message());
  };
  EXPECT_EQ(process("--rate 4 --burstiness 0.5"), "gamma");
  EXPECT_EQ(process("--rate 4 --rate-end 8 --ramp 60s"), "ramp");
  EXPECT_EQ(process("--concurrency 4"), "closed");
  EXPECT_EQ(process("--concurrency 4 --rate 2"), "poisson");
  EXPECT_EQ(process("--dataset mooncake:f"), "trace");
  EXPECT_EQ(process("--dataset mooncake:f --rate 2"), "poisson");
  EXPECT_EQ(process("--dataset azure:f --concurrency 3"), "trace");
  EXPECT_EQ(process("--find-capacity --ttft-slo 1s"), "poisson");
  EXPECT_EQ(process("--arrivals burst --requests 10"), "burst");
}

TEST(BenchServeFlags, TextsAndSessionsAreChats) {
  for (const char* line : {"--rate 1 --dataset gsm8k:f", "--rate 1 --turns 3", "--rate 1 --prompts words"}) {
    const auto options = Parse(line);
    ASSERT_OK(options);
    EXPECT_EQ(options->protocol, "openai-chat") << line;
    EXPECT_FALSE(options->plan.dataset.ids) << line;
  }
  const auto grpc = Parse("--rate 1 --dataset gsm8k:f --protocol interlace-grpc");
  ASSERT_OK(grpc);
  EXPECT_EQ(grpc->client.url, "127.0.0.1:50051");
}

TEST(BenchServeFlags, TargetsAndLengthsArrive) {
  const auto options = Parse(
      "--rates 1,2.5 --seeds 3 --seed 9 --input-tokens lognormal:200:0.8 --output-tokens 7 --ttft-slo 1.5s --tpot-slo "
      "50ms "
      "--gap-slo 2s --e2el-slo 1m --deadline 90s --tenants a:3,b --priorities 0:9,-5:1 --duration 2m --requests 50");
  ASSERT_OK(options);
  EXPECT_THAT(options->rates, ElementsAre(1.0, 2.5));
  EXPECT_EQ(options->plan.seed, 9u);
  EXPECT_EQ(options->plan.dataset.input.shape, LengthSpec::Shape::kLogNormal);
  EXPECT_EQ(options->plan.dataset.output.a, 7);
  const LoadTargets targets{absl::Seconds(1.5), absl::Milliseconds(50), absl::Seconds(2), absl::Minutes(1)};
  EXPECT_EQ(options->plan.targets, targets);
  EXPECT_EQ(options->plan.deadline, absl::Seconds(90));
  EXPECT_THAT(options->plan.tenants, ElementsAre(std::pair("a", 3.0), std::pair("b", 1.0)));
  EXPECT_THAT(options->plan.priorities, ElementsAre(std::pair(0, 9.0), std::pair(-5, 1.0)));
  EXPECT_EQ(options->plan.duration, absl::Minutes(2));
  EXPECT_EQ(options->plan.requests, 50);
}

struct BadLine {
  const char* line;
  const char* part;  // of what is said
};

TEST(BenchServeFlags, WhatMeansNothingIsNamed) {
  for (const auto& [line, part] :
       std::vector<BadLine>{{"", "--rate"},
                            {"--rate 0", "--rate 0"},
                            {"--rates 1,x", "--rates 1,x: x"},
                            {"--rate inf", "--rate inf"},
                            {"--rate 1 --duration 30", "--duration 30"},
                            {"--rate 1 --duration -3s", "--duration"},
                            {"--rate 1 --ttft-slo 0s", "--ttft-slo"},
                            {"--rate 1 --timeout 0s", "--timeout"},
                            {"--arrivals closed", "--concurrency"},
                            {"--arrivals burst", "--requests"},
                            {"--arrivals closed --concurrency 2 --rate 1", "has no rate"},
                            {"--dataset mooncake:f --arrivals trace --rate 1", "has no rate"},
                            {"--rate 1 --dataset nothing", "--dataset nothing"},
                            {"--rate 1 --dataset sharegpt", "sharegpt:FILE"},
                            {"--rate 1 --input-tokens 0", "--input-tokens 0"},
                            {"--rate 1 --token-ids 5", "--token-ids 5"},
                            {"--rate 1 --protocol openai-chat --prompts ids", "--prompts ids"},
                            {"--rate 1 --prompts numbers", "--prompts numbers"},
                            {"--rate 1 --tenants a:0", "--tenants"},
                            {"--rate 1 --priorities high", "--priorities"},
                            {"--rate 1 --seeds 0", "--seeds 0"},
                            {"--rate 1 --turns -1", "--turns -1"},
                            {"--rate 1 --api-key-file /no/such/file", "/no/such/file"},
                            {"--find-capacity", "--ttft-slo"}}) {
    const auto options = Parse(line);
    EXPECT_FALSE(options.ok()) << line;
    EXPECT_THAT(std::string(options.status().message()), HasSubstr(part)) << line;
  }
}

}  // namespace
}  // namespace interlace
