// Every case of every op, on every op table: the outputs agree with the reference under the op's tolerance, and not a
// byte beside them changes.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/embedding/embedding_cases.h"
#include "kernels/linear/linear_cases.h"
#include "kernels/rms_norm/rms_norm_cases.h"
#include "kernels/rope/rope_cases.h"
#include "kernels/sample/sample_cases.h"
#include "kernels/soft_cap/soft_cap_cases.h"
#include "tests/kernels/guarded_buffer.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

using AgreementTest = OpTest;

TEST_P(AgreementTest, Embedding) {
  for (const EmbeddingCase& c : kEmbeddingCases) {
    Random random(1);
    std::vector<uint8_t> table = RandomWeights(c.dtype, c.vocab, c.width, random);
    std::vector<int32_t> tokens(c.tokens);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.Below(c.vocab));
    GuardedTensor actual(c.tokens, c.width);
    GuardedTensor expected(c.tokens, c.width);
    const Tensor weights{table.data(), c.dtype, c.vocab, c.width};
    const PackedWeight packed(ops(), backend(), weights), plain(reference(), backend(), weights);
    ops().embedding({actual.tensor(), packed.weight(), tokens}, two_);
    reference().embedding({expected.tensor(), plain.weight(), tokens}, one_);
    ExpectNear(actual.values(), expected.values(), kEmbeddingTolerance, std::string(c.name));
    EXPECT_TRUE(actual.Intact()) << c.name;
  }
}

TEST_P(AgreementTest, RmsNorm) {
  for (const RmsNormCase& c : kRmsNormCases) {
    Random random(2);
    GuardedTensor x(c.tokens, c.width, random.Floats(c.tokens * c.width, 3));
    GuardedTensor weight(1, c.width, random.Floats(c.width, 2));
    if (c.tokens > 2) x.tensor().f32_row(1)[c.width - 1] = kNan;
    if (c.tokens > 4) x.tensor().f32_row(3)[0] = -kInf;
    GuardedTensor expected(c.tokens, c.width);
    reference().rms_norm({expected.tensor(), x.tensor(), weight.tensor()}, one_);
    GuardedTensor separate(c.tokens, c.width);
    GuardedTensor& actual = c.in_place ? x : separate;
    ops().rms_norm({actual.tensor(), x.tensor(), weight.tensor()}, two_);
    ExpectNear(actual.values(), expected.values(), kRmsNormTolerance * LargestOf(expected.values()),
               std::string(c.name));
    EXPECT_TRUE(x.Intact() && actual.Intact() && weight.Intact()) << c.name;
  }
}

TEST_P(AgreementTest, Rope) {
  for (const RopeCase& c : kRopeCases) {
    Random random(3);
    const int64_t width = c.heads * c.head_dim;
    const std::vector<float> x = random.Floats(c.tokens * width, 2);
    std::vector<float> frequencies((c.rotated > 0 ? c.rotated : c.head_dim) / 2);
    for (size_t i = 0; i < frequencies.size(); ++i) {
      frequencies[i] = static_cast<float>(std::pow(100000.0, -2.0 * static_cast<double>(i) / c.head_dim));
    }
    std::vector<int32_t> positions(c.tokens);
    for (int64_t t = 0; t < c.tokens; ++t) positions[t] = static_cast<int32_t>(c.first_position + t);
    for (const RopePairs pairs : {RopePairs::kAdjacent, RopePairs::kHalves}) {
      for (const float magnitude : {1.0f, 1.37f}) {
        GuardedTensor actual(c.tokens, width, x);
        GuardedTensor expected(c.tokens, width, x);
        if (c.tokens > 2) {
          actual.tensor().f32_row(1)[3] = kNan;
          expected.tensor().f32_row(1)[3] = kNan;
        }
        ops().rope({actual.tensor(), positions, frequencies, c.head_dim, pairs, magnitude}, two_);
        reference().rope({expected.tensor(), positions, frequencies, c.head_dim, pairs, magnitude}, one_);
        ExpectNear(actual.values(), expected.values(), kRopeTolerance * 3, std::string(c.name));
        EXPECT_TRUE(actual.Intact()) << c.name;
      }
    }
  }
}

TEST_P(AgreementTest, SoftCap) {
  for (const SoftCapCase& c : kSoftCapCases) {
    Random random(13);
    std::vector<float> x = random.Floats(c.tokens * c.width, 4 * c.cap);
    if (c.tokens > 2) {
      x[0] = kNan;
      x[1] = kInf;
      x[2] = -kInf;
      x[3] = 1e-3f * c.cap;
    }
    GuardedTensor actual(c.tokens, c.width, x), expected(c.tokens, c.width, x);
    ops().soft_cap({actual.tensor(), c.cap}, two_);
    reference().soft_cap({expected.tensor(), c.cap}, one_);
    ExpectNear(actual.values(), expected.values(), kSoftCapTolerance * c.cap, std::string(c.name));
    for (float value : expected.values()) EXPECT_FALSE(std::abs(value) > c.cap);
    EXPECT_TRUE(actual.Intact()) << c.name;
  }
}

TEST_P(AgreementTest, Linear) {
  for (const LinearCase& c : kLinearCases) {
    Random random(4);
    std::vector<uint8_t> bytes = RandomWeights(c.dtype, c.rows, c.k, random);
    const Tensor w{bytes.data(), c.dtype, c.rows, c.k};
    GuardedTensor x(c.tokens, c.k, random.Floats(c.tokens * c.k));
    const bool with_nan = c.tokens > 3;
    if (with_nan) {
      x.tensor().f32_row(1)[c.k - 1] = kNan;
      x.tensor().f32_row(2)[0] = -kInf;
    }
    const std::vector<float> before = random.Floats(c.tokens * c.rows);
    GuardedTensor actual(c.tokens, c.rows, before);
    GuardedTensor expected(c.tokens, c.rows, before);
    const PackedWeight packed(ops(), backend(), w), plain(reference(), backend(), w);
    ops().linear({x.tensor(), {{actual.tensor(), packed.weight(), nullptr, c.accumulate}}}, two_);
    reference().linear({x.tensor(), {{expected.tensor(), plain.weight(), nullptr, c.accumulate}}}, one_);

    const bool quantised = ops().name != "reference" && TraitsOf(c.dtype).block_elements > 1;
    std::vector<float> decoded(c.k);
    std::vector<double> tolerance(c.tokens * c.rows);
    for (int64_t r = 0; r < c.rows; ++r) {
      DequantiseRow(c.dtype, bytes.data() + r * RowBytes(c.dtype, c.k), c.k, decoded.data());
      for (int64_t t = 0; t < c.tokens; ++t) {
        float sum = c.accumulate ? 1 : 0;
        for (int64_t i = 0; i < c.k; ++i) sum += std::abs(x.tensor().f32_row(t)[i] * decoded[i]);
        tolerance[t * c.rows + r] = (quantised ? kLinearInt8Tolerance : kLinearTolerance) * sum;
      }
    }
    if (with_nan && c.rows > 0) {
      EXPECT_TRUE(std::isnan(actual.tensor().f32_row(1)[0]));
      EXPECT_FALSE(std::isfinite(actual.tensor().f32_row(2)[0]));
      // Quantised, infinity is NaN.
      if (quantised) std::copy_n(expected.tensor().f32_row(2), c.rows, actual.tensor().f32_row(2));
    }
    ExpectNear(actual.values(), expected.values(), tolerance, std::string(c.name));
    EXPECT_TRUE(actual.Intact() && x.Intact()) << c.name;
  }
}

TEST_P(AgreementTest, Sample) {
  for (const SampleCase& c : kSampleCases) {
    Random random(9);
    std::vector<float> logits = random.Floats(c.rows * c.vocab, 10);
    if (logits.size() > 10) logits[3] = kNan;
    if (logits.size() > 10) logits[5] = -kInf;
    std::vector<SampleRow> rows(c.rows, c.settings);
    for (int64_t i = 0; i < c.rows; ++i) rows[i].index = i;
    std::vector<int32_t> actual(c.rows, -7);
    std::vector<int32_t> expected(c.rows, -7);
    const Tensor tensor{logits.data(), DType::kF32, c.rows, c.vocab};
    std::vector<TokenLogprob> actual_logprobs(c.rows * 21), expected_logprobs(c.rows * 21);
    ops().sample({absl::MakeSpan(actual), tensor, rows, absl::MakeSpan(actual_logprobs), 21}, two_);
    reference().sample({absl::MakeSpan(expected), tensor, rows, absl::MakeSpan(expected_logprobs), 21}, one_);
    EXPECT_EQ(actual, expected) << c.name;
    EXPECT_EQ(actual_logprobs, expected_logprobs) << c.name;
  }
}

INTERLACE_OP_TEST(AgreementTest);

}  // namespace
}  // namespace interlace
