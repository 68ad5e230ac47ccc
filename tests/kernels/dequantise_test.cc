#include "kernels/dequantise.h"

#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

TEST(F16Test, EdgeValues) {
  EXPECT_EQ(F16ToF32(0x0000), 0.0f);
  EXPECT_TRUE(std::signbit(F16ToF32(0x8000)));
  EXPECT_EQ(F16ToF32(0x0001), 0x1p-24f);  // the smallest denormal
  EXPECT_EQ(F16ToF32(0x83ff), -1023 * 0x1p-24f);
  EXPECT_EQ(F16ToF32(0x0400), 0x1p-14f);
  EXPECT_EQ(F16ToF32(0x3c00), 1.0f);
  EXPECT_EQ(F16ToF32(0xc100), -2.5f);
  EXPECT_EQ(F16ToF32(0x7bff), 65504.0f);
  EXPECT_EQ(F16ToF32(0x7c00), std::numeric_limits<float>::infinity());
  EXPECT_EQ(F16ToF32(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(F16ToF32(0x7c01)));
  EXPECT_TRUE(std::isnan(F16ToF32(0xfe00)));
}

TEST(F16Test, EveryValueSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = F16ToF32(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(value))));
    } else {
      EXPECT_EQ(F32ToF16(value), bits);
    }
  }
}

TEST(F16Test, RoundsToNearestEven) {
  EXPECT_EQ(F32ToF16(1 + 0x1p-11f), 0x3c00);             // a tie goes to even
  EXPECT_EQ(F32ToF16(1 + 3 * 0x1p-11f), 0x3c02);         // and up to even
  EXPECT_EQ(F32ToF16(1 + 0x1p-11f + 0x1p-20f), 0x3c01);  // beyond the tie
  EXPECT_EQ(F32ToF16(65519.0f), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(F32ToF16(1e30f), 0x7c00);
  EXPECT_EQ(F32ToF16(-0x1p-25f), 0x8000);  // half the smallest: a tie to zero
  EXPECT_EQ(F32ToF16(1.5f * 0x1p-25f), 0x0001);
}

TEST(BF16Test, EdgeValues) {
  EXPECT_EQ(BF16ToF32(0x3f80), 1.0f);
  EXPECT_EQ(BF16ToF32(0xc049), -3.140625f);
  EXPECT_EQ(BF16ToF32(0x0001), 0x1p-133f);
  EXPECT_EQ(BF16ToF32(0x7f80), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(BF16ToF32(0x7fc0)));
}

void Put16(std::vector<uint8_t>& bytes, size_t at, uint16_t value) { std::memcpy(&bytes[at], &value, sizeof value); }

TEST(DequantiseTest, Q8_0ByHand) {
  std::vector<uint8_t> block(34);
  Put16(block, 0, 0x3800);  // 0.5
  block[2] = 0x80;          // -128
  block[3] = 127;
  block[2 + 31] = 0xff;  // -1
  std::vector<float> out(32);
  DequantiseRow(DType::kQ8_0, block.data(), 32, out.data());
  EXPECT_EQ(out[0], -64);
  EXPECT_EQ(out[1], 63.5f);
  EXPECT_EQ(out[2], 0);
  EXPECT_EQ(out[31], -0.5f);
}

// Byte i: element i in the low half, element i + 16 in the high half.
TEST(DequantiseTest, Q4_0ByHand) {
  std::vector<uint8_t> bytes(2 * 18, 0x88);
  Put16(bytes, 0, 0xc000);   // -2
  Put16(bytes, 18, 0x0001);  // a denormal scale
  bytes[2] = 0xf0;
  bytes[2 + 15] = 0x3a;
  bytes[18 + 2] = 0x0f;
  std::vector<float> out(64);
  DequantiseRow(DType::kQ4_0, bytes.data(), 64, out.data());
  EXPECT_EQ(out[0], 16);    // -2 * (0 - 8)
  EXPECT_EQ(out[16], -14);  // -2 * (15 - 8)
  EXPECT_EQ(out[15], -4);   // -2 * (10 - 8)
  EXPECT_EQ(out[31], 10);   // -2 * (3 - 8)
  EXPECT_EQ(out[1], 0);
  EXPECT_EQ(out[32], 7 * 0x1p-24f);
  EXPECT_EQ(out[48], -8 * 0x1p-24f);
}

TEST(DequantiseTest, Q4_1ByHand) {
  std::vector<uint8_t> block(20);
  Put16(block, 0, 0x3400);  // 0.25
  Put16(block, 2, 0xbc00);  // -1
  block[4] = 0x2f;
  block[4 + 15] = 0xf1;
  std::vector<float> out(32);
  DequantiseRow(DType::kQ4_1, block.data(), 32, out.data());
  EXPECT_EQ(out[0], 2.75f);   // 0.25 * 15 - 1
  EXPECT_EQ(out[16], -0.5f);  // 0.25 * 2 - 1
  EXPECT_EQ(out[15], -0.75f);
  EXPECT_EQ(out[31], 2.75f);
  EXPECT_EQ(out[1], -1);
}

std::vector<uint8_t> FromHex(const std::string& hex) {
  const std::string bytes = absl::HexStringToBytes(hex);
  return {bytes.begin(), bytes.end()};
}

// tests/golden/make_quant_reference.py: the `gguf` package, bit for bit.
TEST(DequantiseTest, EveryTypeIsWhatGgufTakesItFor) {
  std::ifstream file("tests/golden/quants.json");
  ASSERT_TRUE(file);
  const nlohmann::json golden = nlohmann::json::parse(file);
  for (const DType dtype : kWeightTypes) {
    const DTypeTraits traits = TraitsOf(dtype);
    if (traits.block_elements == 1) continue;
    const nlohmann::json& of = golden.at(std::string(traits.name));
    const std::vector<uint8_t> blocks = FromHex(of.at("blocks")), values = FromHex(of.at("values"));
    std::vector<float> want(values.size() / sizeof(float)), got(want.size());
    std::memcpy(want.data(), values.data(), values.size());
    ASSERT_EQ(RowBytes(dtype, static_cast<int64_t>(want.size())), static_cast<int64_t>(blocks.size())) << traits.name;
    DequantiseRow(dtype, blocks.data(), static_cast<int64_t>(want.size()), got.data());
    for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(got[i], want[i]) << traits.name << " element " << i;
  }
}

TEST(DequantiseTest, RowBytesFollowTheTraits) {
  EXPECT_EQ(RowBytes(DType::kQ4_1, 576), 360);
  EXPECT_EQ(RowBytes(DType::kQ8_0, 576), 612);
  EXPECT_EQ(RowBytes(DType::kQ4_0, 64), 36);
  EXPECT_EQ(RowBytes(DType::kBF16, 7), 14);
}

// Every table's linear reads a weight as DequantiseRow does: x picks out one element, by 254 so that its quantised form
// is exact.
using WeightsTest = OpTest;
TEST_P(WeightsTest, LinearReadsWeightsExactly) {
  for (const DType dtype : kWeightTypes) {
    Random random(3);
    constexpr int64_t kRows = 19;
    constexpr int64_t kWidth = 256;
    std::vector<uint8_t> bytes = RandomWeights(dtype, kRows, kWidth, random);
    if (TraitsOf(dtype).block_elements > 1) Put16(bytes, 0, 0x0003);  // a denormal scale
    if (dtype == DType::kF16) Put16(bytes, 0, 0x83ff);
    std::vector<float> expected(kRows * kWidth);
    for (int64_t r = 0; r < kRows; ++r) {
      DequantiseRow(dtype, bytes.data() + r * RowBytes(dtype, kWidth), kWidth, &expected[r * kWidth]);
    }
    const PackedWeight packed(ops(), backend(), {bytes.data(), dtype, kRows, kWidth});
    for (const int64_t tokens : {1, 5}) {
      for (int64_t i = 0; i < kWidth; ++i) {
        std::vector<float> x(tokens * kWidth);
        for (int64_t t = 0; t < tokens; ++t) x[t * kWidth + i] = 254;
        std::vector<float> y(tokens * kRows);
        ops().linear(
            {{x.data(), DType::kF32, tokens, kWidth}, {{{y.data(), DType::kF32, tokens, kRows}, packed.weight()}}},
            one_);
        for (int64_t j = 0; j < tokens * kRows; ++j) {
          const float e = 254 * expected[j % kRows * kWidth + i];
          // Scale times code and minimum are rounded apart.
          ASSERT_NEAR(y[j], e, 1e-6 * 254 * 3) << TraitsOf(dtype).name << " element " << i;
        }
      }
    }
  }
}
INTERLACE_OP_TEST(WeightsTest);

}  // namespace
}  // namespace interlace
