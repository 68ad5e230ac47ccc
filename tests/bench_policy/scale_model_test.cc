// What a step costs: against the limits that were worked out by hand for these models on an H200.
#include "bench/policy/scale_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/entropy.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

// 4.3 TB/s and 790 TFLOP/s, all of it reached; no fixed cost.
ScaleDevice Ideal(int32_t count = 1) {
  return {.count = count, .bandwidth = 4.3e12, .flops = 790e12, .bandwidth_share = 1, .flops_share = 1, .fixed = 0};
}

// `rows` rows after `start` positions, the last one sampled.
PlanSequence Rows(int32_t start, int32_t rows) {
  PlanSequence sequence;
  sequence.start = start;
  sequence.tokens.resize(static_cast<size_t>(rows), 1);
  sequence.sample = true;
  return sequence;
}

double Seconds(const char* model, const ScaleDevice& device, const std::vector<PlanSequence>& sequences) {
  return RooflineSeconds(*FindScaleModel(model), device, sequences);
}

TEST(ScaleModel, DecodeIsWhatMemoryAllows) {
  EXPECT_NEAR(1 / Seconds("llama-3.1-8b", Ideal(), {Rows(127, 1)}), 286, 4);
  EXPECT_NEAR(1 / Seconds("llama-3.1-8b", Ideal(), {Rows(131071, 1)}), 134, 3);
  EXPECT_NEAR(32 / Seconds("llama-3.1-8b", Ideal(), std::vector<PlanSequence>(32, Rows(4095, 1))), 4275, 60);
  EXPECT_NEAR(1 / Seconds("llama-3.1-70b", Ideal(2), {Rows(127, 1)}), 62, 1);
}

TEST(ScaleModel, PrefillIsWhatArithmeticAllows) {
  EXPECT_NEAR(4096 / Seconds("llama-3.1-8b", Ideal(), {Rows(0, 4096)}), 52.6e3, 1.6e3);
  EXPECT_NEAR(32768 / Seconds("llama-3.1-8b", Ideal(), {Rows(0, 32768)}), 35.0e3, 1.1e3);
  EXPECT_NEAR(4096 / Seconds("llama-3.1-70b", Ideal(2), {Rows(0, 4096)}), 11.1e3, 0.4e3);
}

// More work never takes less time, and two halves of a batch never less than the whole.
TEST(ScaleModel, MoreWorkTakesLonger) {
  const ScaleDevice device;
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
    const auto draw = [&](uint64_t most) { return static_cast<int32_t>(entropy->Next() % most); };
    std::vector<PlanSequence> all, half;
    for (int i = draw(40) + 1; i > 0; --i) {
      all.push_back(Rows(draw(20000), draw(2) == 0 ? 1 : 1 + draw(2000)));
      if (draw(2) == 0) half.push_back(all.back());
    }
    if (half.empty()) continue;
    EXPECT_LE(Seconds("llama-3.1-8b", device, half), Seconds("llama-3.1-8b", device, all)) << "seed " << seed;
    EXPECT_GE(2 * Seconds("llama-3.1-8b", device, all), Seconds("llama-3.1-8b", device, half)) << "seed " << seed;
    EXPECT_GE(Seconds("llama-3.1-8b", device, all), device.fixed) << "seed " << seed;
  }
}

TEST(ScaleModel, KvIsWhatWeightsLeave) {
  const ScaleModel model = *FindScaleModel("llama-3.1-8b");
  EXPECT_EQ(model.kv_bytes(), 4096);
  ScaleDevice device;
  const int64_t tokens = *DeviceTokens(model, device);
  EXPECT_NEAR(static_cast<double>(tokens) * 131072 + 16.06e9, 0.9 * 141e9, 131072);
  EXPECT_THAT(DeviceTokens(*FindScaleModel("llama-3.1-70b"), device).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, testing::HasSubstr("--devices")));
  device.count = 4;
  EXPECT_GT(*DeviceTokens(*FindScaleModel("llama-3.1-70b"), device), 1000000);
  EXPECT_THAT(FindScaleModel("llama-2").status(),
              StatusIs(absl::StatusCode::kNotFound, testing::HasSubstr("llama-3.1-70b")));
}

}  // namespace
}  // namespace interlace
