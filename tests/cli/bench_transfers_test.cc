// interlace bench transfers: it moves what it says it moves, and finds where steps begin to wait.
#include <cmath>

#include "cli/bench_transfers_command.h"
#include "tests/status_matchers.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(ZeroStallTest, IsWhereTheLineOfTheLinkMeetsTheResidentStep) {
  Random random(1);
  for (int round = 0; round < 100; ++round) {
    const double resident = random.Uniform(1, 50), layer = random.Uniform(0.2, 5);  // ms
    std::vector<HostStep> steps;
    int bound = 0;
    for (int32_t host = 0; host <= 40; host += 2) {
      const double link = layer * host;
      const double step = std::max(resident, link);
      steps.push_back(
          {host, absl::Milliseconds(step), absl::Milliseconds(step - resident), 0, absl::Milliseconds(resident)});
      bound += step - resident >= 0.1 * step ? 1 : 0;
    }
    const ZeroStall zero = FindZeroStall(steps, 7);
    EXPECT_EQ(zero.formula, 7);
    if (bound < 2) {
      EXPECT_TRUE(std::isnan(zero.measured));
    } else {
      EXPECT_NEAR(zero.measured, resident / layer, 1e-6 * resident / layer);
      EXPECT_NEAR(zero.layer, 1e-3 * layer, 1e-9 * layer);
    }
  }
}

TEST(TransferBenchTest, ReadsTheHostLayersOfEachStepAndSendsEveryLayerOfAPrompt) {
  constexpr int32_t kLayers = 6, kBlock = 8, kStreams = 3, kContext = 32, kPrompt = 48;
  const TinyFile file({.layers = kLayers});
  Config config;
  config.model.path = file.path();
  config.engine.threads = 1;
  config.kv.block_tokens = kBlock;
  config.kv.link_bytes.value = int64_t{1} << 30;
  config.sched.chunk_tokens = 20;
  RealClock clock;
  FaultPoints faults;
  const auto bench =
      TransferBench::Create({config, kPrompt, kStreams, kContext}, clock, faults, [](int64_t, int64_t) {});
  ASSERT_OK(bench);
  int64_t block_bytes = 0;
  for (int round = 0; round < 2; ++round) {
    const auto prefill = (*bench)->Prefill(kPrompt);
    ASSERT_OK(prefill);
    block_bytes = prefill->bytes / (kPrompt / kBlock * kLayers);
    EXPECT_GT(block_bytes, 0);
    EXPECT_EQ(prefill->bytes % (kPrompt / kBlock * kLayers), 0);
    EXPECT_EQ(prefill->read_back, 0);
    const auto in_chunks = (*bench)->Prefill(kBlock);
    ASSERT_OK(in_chunks);
    EXPECT_EQ(in_chunks->bytes, prefill->bytes);
    EXPECT_LE(in_chunks->read_back, kLayers * (1 + 2 + 3 + 4 + 5) * block_bytes);  // what has left already
    for (const int32_t host : {0, 3, 6, 2, 0}) {
      const auto step = (*bench)->Decode(host);
      ASSERT_OK(step);
      EXPECT_EQ(step->bytes_in, int64_t{host} * kStreams * (kContext / kBlock) * block_bytes) << host;
    }
  }
  // Double the step, double the layers that it hides.
  EXPECT_DOUBLE_EQ((*bench)->HiddenLayers(absl::Milliseconds(8)), 2 * (*bench)->HiddenLayers(absl::Milliseconds(4)));
}

TEST(BenchTransfersTest, RefusesWhatMakesNoSense) {
  const TinyFile file({.layers = 2});
  Config config;
  config.model.path = file.path();
  EXPECT_THAT(BenchTransfersCommand(config, {}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--link")));
  config.kv.link_bytes.value = 1 << 20;
  EXPECT_THAT(BenchTransfersCommand(config, {.rounds = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--rounds=0")));
  EXPECT_THAT(BenchTransfersCommand(config, {.context = 33}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("whole blocks")));
  EXPECT_THAT(BenchTransfersCommand(config, {.prompt = 32, .context = 32, .host = {3}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--host=3")));
}

}  // namespace
}  // namespace interlace
