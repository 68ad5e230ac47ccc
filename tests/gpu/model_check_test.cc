// The real model on the emulated device: the arithmetic of the cuda backend (BF16 weights and activations) against the
// CPU's, over a short text. What a GPU adds to this is its own order of sums.
#include "tests/gpu/model_check.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/cuda/cuda_backend.h"
#include "tests/gpu/op_timing.h"
#include "tests/kernels/cuda/emulated_device.h"
#include "tests/status_matchers.h"
#include "tests/test_model.h"

namespace interlace {
namespace {

TEST(ModelCheckTest, TheEmulatedDeviceAgreesWithTheCpu) {
  auto file = GgufFile::Open(TestModelPath());
  ASSERT_OK(file);
  std::ifstream json("tests/golden/model/perplexity.json");
  ASSERT_TRUE(json);
  const std::vector<int32_t> tokens = nlohmann::json::parse(json)["tokens"];
  const auto state = std::make_shared<EmulatedDevice>();
  ModelCheckOptions options;
  options.prompts = {{tokens.begin(), tokens.begin() + 11}, {tokens.begin() + 40, tokens.begin() + 45}};
  options.greedy_steps = 3;
  options.windows = {{tokens.begin(), tokens.begin() + 40}};
  auto check = CheckModel(**file, *MakeCudaBackendOver(std::make_unique<EmulatedDriver>(state), {}), options);
  ASSERT_OK(check);
  std::printf("logits: worst %.4f, mean %.4f; greedy %d of %d; perplexity %.4f, cpu %.4f\n", check->worst_logit,
              check->mean_logit, check->agreed, check->compared, std::exp(check->nll_device),
              std::exp(check->nll_expected));
  EXPECT_EQ(FaultOf(*check), "");
  EXPECT_GT(check->worst_logit, 1e-4) << "BF16 cannot be so good: the device did not compute in it";
  EXPECT_EQ(check->compared, 2 + 2 * 3);
  EXPECT_TRUE(state->violations.empty()) << state->violations[0];
  EXPECT_TRUE(state->NothingHeld());
}

// What gpu_check prints as timings, on a device that has none. Its times mean nothing; what it counts as moved and
// computed follows from the shapes, and so does what it asks of the device.
TEST(OpTimingTest, EveryShapeRunsAndIsCountedByItsSizes) {
  const auto state = std::make_shared<EmulatedDevice>();
  {
    EmulatedDriver driver(state);
    const auto bandwidth = MeasureBandwidth(driver, int64_t{1} << 16);
    ASSERT_OK(bandwidth);
    EXPECT_GT(*bandwidth, 0);
    const auto backend = *MakeCudaBackendOver(std::make_unique<EmulatedDriver>(state), {});
    const auto timings = TimeOps(*backend, 256);
    ASSERT_OK(timings);
    std::map<std::string, int> of_op;
    for (const OpTiming& t : *timings) {
      ++of_op[t.op];
      EXPECT_GT(t.microseconds, 0) << t.op << " " << t.shape;
      int64_t tokens = 0, k = 0, rows = 0;
      if (std::sscanf(t.shape.c_str(), "%ld x %ld -> %ld", &tokens, &k, &rows) == 3) {  // weights in BF16
        EXPECT_EQ(t.flops, 2.0 * tokens * k * rows) << t.shape;
        EXPECT_EQ(t.bytes, 2.0 * rows * k + 4.0 * tokens * (k + rows)) << t.shape;
      } else if (std::sscanf(t.shape.c_str(), "%ld x %ld", &tokens, &k) == 2 && t.op == "rms_norm") {
        EXPECT_EQ(t.bytes, 8.0 * tokens * k + 4.0 * k) << t.shape;
      }
    }
    EXPECT_EQ(of_op, (std::map<std::string, int>{
                         {"rms_norm", 2}, {"rope", 2}, {"linear", 5}, {"kv_append", 3}, {"paged_attention", 3}}));
    // Once before and five times measured, each shape at least: the first products and kernels of every op.
    EXPECT_GE(state->CountOf("Gemm"), 6 * of_op["linear"]);
    EXPECT_GE(state->CountOf("Launch"), 6 * (of_op["rms_norm"] + of_op["rope"] + of_op["paged_attention"]));
  }
  EXPECT_TRUE(state->violations.empty()) << state->violations[0];
  EXPECT_TRUE(state->NothingHeld());
}

}  // namespace
}  // namespace interlace
