// What linear computes on packed weights, to the bit: the arithmetic that kernels/linear/linear_strips.h states, done
// here element by element; and the same bits from every vector table.
#include "kernels/linear/linear.h"

#include <cmath>

#include "kernels/dequantise.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

Tensor View(std::vector<float>& values, int64_t cols) {
  return {values.data(), DType::kF32, static_cast<int64_t>(values.size()) / cols, cols};
}

// x as the tables quantise it: to multiples of (high - low) / 254, 0 among them.
std::vector<float> Requantised(const std::vector<float>& x) {
  std::vector<float> out(x.size());
  for (size_t b = 0; b < x.size(); b += 32) {
    float low = 0, high = 0;
    for (size_t i = b; i < b + 32; ++i) {
      low = std::min(low, x[i]);
      high = std::max(high, x[i]);
    }
    const float range = high - low, d = range < 0x1p-100f ? 0 : range / 254.0f;
    const float inverse = range < 0x1p-100f ? 0 : 254.0f / range;
    const float zero = 1 + std::nearbyint(-low * inverse);
    for (size_t i = b; i < b + 32; ++i) {
      out[i] = d * (std::clamp(std::nearbyint(x[i] * inverse) + zero, 1.0f, 255.0f) - zero);
    }
  }
  return out;
}

class LinearTest : public OpTest {};

// Against double precision on the quantised x: what is left is F32 rounding alone.
TEST_P(LinearTest, QuantisesXAndNothingElse) {
  if (ops().name == "reference") GTEST_SKIP() << "reference does not quantise x";
  for (uint64_t seed = 0; seed < 120; ++seed) {
    Random random(seed);
    const DType dtype = AnyWeightType(random);
    const bool quantised = TraitsOf(dtype).block_elements > 1;
    const int64_t k = 256 * random.Between(1, seed % 7 == 0 ? 12 : 3), rows = random.Between(1, 50);
    const int64_t tokens = random.Between(1, 9);
    std::vector<uint8_t> bytes = RandomWeights(dtype, rows, k, random);
    const PackedWeight w(ops(), backend(), {bytes.data(), dtype, rows, k});
    std::vector<float> x = random.Floats(tokens * k, std::exp2(random.Uniform(-30, 30)));
    if (seed % 5 == 0) std::fill_n(x.begin(), 32, 0.0f);
    std::vector<float> bias = random.Floats(rows), y(tokens * rows);
    ops().linear({View(x, k), {{View(y, rows), w.weight(), seed % 2 ? bias.data() : nullptr}}}, two_);
    const std::vector<float> seen = quantised ? Requantised(x) : x;
    std::vector<float> decoded(k);
    for (int64_t r = 0; r < rows; ++r) {
      DequantiseRow(dtype, bytes.data() + r * RowBytes(dtype, k), k, decoded.data());
      for (int64_t t = 0; t < tokens; ++t) {
        double sum = seed % 2 ? bias[r] : 0, size = std::abs(sum);
        for (int64_t i = 0; i < k; ++i) {
          sum += double{seen[t * k + i]} * decoded[i];
          size += std::abs(double{seen[t * k + i]} * decoded[i]);
        }
        // A minimum and a code may cancel: what is rounded is larger than the weight.
        ASSERT_NEAR(y[t * rows + r], sum, 4e-6 * size + 1e-6 * std::abs(seen[t * k]))
            << "seed " << seed << " " << TraitsOf(dtype).name << " k " << k << " row " << r << " token " << t;
      }
    }
  }
}

TEST_P(LinearTest, EveryVectorTableGivesTheSameBits) {
  if (ops().name == "reference") GTEST_SKIP() << "reference adds in another order";
  const OpTable& other = **FindOpTable("avx2");
  for (uint64_t seed = 0; seed < 80; ++seed) {
    Random random(seed);
    const DType dtype = AnyWeightType(random);
    const int64_t k = 256 * random.Between(1, 10), rows = random.Between(1, 80), tokens = random.Between(1, 40);
    std::vector<uint8_t> bytes = RandomWeights(dtype, rows, k, random);
    const PackedWeight w(ops(), backend(), {bytes.data(), dtype, rows, k});
    std::vector<float> x = random.Floats(tokens * k), a(tokens * rows), b(tokens * rows);
    ops().linear({View(x, k), {{View(a, rows), w.weight()}}}, two_);
    other.linear({View(x, k), {{View(b, rows), w.weight()}}}, one_);
    ASSERT_TRUE(SameBits(a, b)) << "seed " << seed << " " << TraitsOf(dtype).name;
  }
}

// All outputs of a call, of any types, are what calls of their own give.
TEST_P(LinearTest, OutputsOfOneCallDoNotMix) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const int64_t k = 256 * random.Between(1, 3), tokens = random.Between(1, 12);
    std::vector<float> x = random.Floats(tokens * k);
    std::vector<std::vector<uint8_t>> bytes;
    std::vector<PackedWeight> weights;
    std::vector<std::vector<float>> together, apart;
    std::vector<LinearOut> outs;
    const int64_t count = random.Between(1, 5);
    for (int64_t i = 0; i < count; ++i) {
      const DType dtype = AnyWeightType(random);
      const int64_t rows = random.Between(1, 60);
      bytes.push_back(RandomWeights(dtype, rows, k, random));
      weights.emplace_back(ops(), backend(), Tensor{bytes.back().data(), dtype, rows, k});
      together.emplace_back(tokens * rows);
      apart.emplace_back(tokens * rows);
      ops().linear({View(x, k), {{View(apart.back(), rows), weights.back().weight()}}}, one_);
    }
    for (int64_t i = 0; i < count; ++i) {
      outs.push_back({View(together[i], weights[i].weight().rows), weights[i].weight()});
    }
    ops().linear({View(x, k), outs}, two_);
    for (int64_t i = 0; i < count; ++i) ASSERT_TRUE(SameBits(together[i], apart[i])) << "seed " << seed;
  }
}

TEST_P(LinearTest, GatedAgreesWithTheReference) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const DType dtype = random.Below(2) == 0 ? DType::kF32 : AnyWeightType(random);
    const int64_t k = 256 * random.Between(1, 2), rows = random.Between(1, 70), tokens = random.Between(1, 20);
    std::vector<uint8_t> gate = RandomWeights(dtype, rows, k, random), up = RandomWeights(dtype, rows, k, random);
    const Tensor g{gate.data(), dtype, rows, k}, u{up.data(), dtype, rows, k};
    const PackedWeight pg(ops(), backend(), g), pu(ops(), backend(), u);
    const GateKind kind = random.Below(2) == 0 ? GateKind::kSilu : GateKind::kGeluTanh;
    std::vector<float> x = random.Floats(tokens * k, random.Uniform(0.05f, 2));
    std::vector<float> actual(tokens * rows), plain(tokens * rows), plain_up(tokens * rows);
    ops().gated_linear({View(actual, rows), View(x, k), pg.weight(), pu.weight(), kind}, two_);
    // The activation apart from the quantisation of x: from the table's own products.
    ops().linear({View(x, k), {{View(plain, rows), pg.weight()}, {View(plain_up, rows), pu.weight()}}}, one_);
    for (size_t i = 0; i < plain.size(); ++i) {
      const double v = plain[i];
      const double act = kind == GateKind::kSilu
                             ? v / (1 + std::exp(-v))
                             : 0.5 * v * (1 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
      ASSERT_NEAR(actual[i], act * plain_up[i], 3e-6 * std::abs(v * plain_up[i]) + 1e-30)
          << "seed " << seed << " gate " << v;
    }
  }
}

INTERLACE_OP_TEST(LinearTest);

}  // namespace
}  // namespace interlace
