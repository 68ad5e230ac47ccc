// Every case of every op, on every op table: the outputs agree with the reference under the op's tolerance, and not a
// byte beside them changes.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/embedding/embedding_cases.h"
#include "kernels/kv_append/kv_append_cases.h"
#include "kernels/linear/linear_cases.h"
#include "kernels/paged_attention/paged_attention_cases.h"
#include "kernels/rms_norm/rms_norm_cases.h"
#include "kernels/rope/rope_cases.h"
#include "kernels/sample/sample_cases.h"
#include "tests/kernels/guarded_buffer.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/paged_kv.h"
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
    std::vector<float> frequencies(c.head_dim / 2);
    for (size_t i = 0; i < frequencies.size(); ++i) {
      frequencies[i] = static_cast<float>(std::pow(100000.0, -2.0 * static_cast<double>(i) / c.head_dim));
    }
    std::vector<int32_t> positions(c.tokens);
    for (int64_t t = 0; t < c.tokens; ++t) positions[t] = static_cast<int32_t>(c.first_position + t);
    GuardedTensor actual(c.tokens, width, x);
    GuardedTensor expected(c.tokens, width, x);
    if (c.tokens > 2) {
      actual.tensor().f32_row(1)[3] = kNan;
      expected.tensor().f32_row(1)[3] = kNan;
    }
    ops().rope({actual.tensor(), positions, frequencies, c.head_dim}, two_);
    reference().rope({expected.tensor(), positions, frequencies, c.head_dim}, one_);
    ExpectNear(actual.values(), expected.values(), kRopeTolerance * 2, std::string(c.name));
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

TEST_P(AgreementTest, KvAppend) {
  for (const KvAppendCase& c : kKvAppendCases) {
    Random random(6);
    const int64_t width = int64_t{c.shape.kv_heads} * c.shape.head_dim;
    std::vector<float> k = random.Floats(c.tokens * width);
    std::vector<float> v = random.Floats(c.tokens * width);
    PagedKv actual(backend(), c.shape, c.start + c.tokens, random);
    PagedKv expected(backend(), c.shape, c.start + c.tokens, random);
    actual.Append(ops(), k, v, c.start, two_);
    expected.Append(reference(), k, v, c.start, one_);
    for (int64_t b = 0; b < actual.block_count(); ++b) {
      for (int64_t i = 0; i < 2 * c.shape.k_elements(); ++i) {
        const float e = expected.At(b, i);
        ASSERT_TRUE(std::isnan(e) ? std::isnan(actual.At(b, i)) : actual.At(b, i) == e) << c.name << " block " << b;
      }
    }
    // The layout itself: the last token, its last head and element.
    if (c.tokens > 0) {
      const int64_t position = c.start + c.tokens - 1;
      const int64_t block = position / c.shape.block_tokens;
      const int64_t slot = position % c.shape.block_tokens;
      EXPECT_EQ(actual.At(block, (width - 1) * c.shape.block_tokens + slot), k.back()) << c.name;
      const int64_t row = (c.shape.kv_heads - 1) * c.shape.block_tokens + slot;
      EXPECT_EQ(actual.At(block, c.shape.k_elements() + (row + 1) * c.shape.head_dim - 1), v.back()) << c.name;
    }
  }
}

// Without and with a NaN in the query of the first token's head 0, which must stay there.
TEST_P(AgreementTest, PagedAttention) {
  for (const PagedAttentionCase& c : kPagedAttentionCases) {
    for (const bool with_nan : {false, true}) {
      Random random(7);
      const int64_t kv_width = int64_t{c.shape.kv_heads} * c.shape.head_dim;
      const int64_t width = int64_t{c.heads} * c.shape.head_dim;
      const int64_t positions = c.start + c.tokens;
      std::vector<float> k = random.Floats(positions * kv_width, 2);
      std::vector<float> v = random.Floats(positions * kv_width);
      PagedKv kv(backend(), c.shape, positions, random);  // unwritten tails are NaN
      kv.Append(reference(), k, v, 0, one_);
      GuardedTensor q(c.tokens, width, random.Floats(c.tokens * width, 2));
      if (with_nan && c.tokens > 0) q.tensor().f32()[c.shape.head_dim - 1] = kNan;
      GuardedTensor actual(c.tokens, width);
      GuardedTensor expected(c.tokens, width);
      GuardedTensor actual_lse(c.tokens, c.heads);
      GuardedTensor expected_lse(c.tokens, c.heads);
      const SequenceRows rows{0, c.tokens, c.start, kv.blocks()};
      PagedAttentionArgs args{.out = actual.tensor(),
                              .q = q.tensor(),
                              .lse = actual_lse.tensor().f32(),
                              .shape = c.shape,
                              .sequences = {&rows, 1},
                              .heads = c.heads,
                              .scale = 1 / std::sqrt(static_cast<float>(c.shape.head_dim))};
      ops().paged_attention(args, two_);
      args.out = expected.tensor();
      args.lse = expected_lse.tensor().f32();
      reference().paged_attention(args, one_);
      ExpectNear(actual.values(), expected.values(), kPagedAttentionTolerance, std::string(c.name));
      ExpectNear(actual_lse.values(), expected_lse.values(), kPagedAttentionTolerance * 8, std::string(c.name));
      const std::vector<float> values = actual.values();
      for (int64_t i = with_nan ? c.shape.head_dim : 0; i < c.tokens * width; ++i) {
        ASSERT_FALSE(std::isnan(values[i])) << c.name << ": NaN leaked to [" << i << "]";
      }
      EXPECT_TRUE(actual.Intact() && actual_lse.Intact() && q.Intact()) << c.name;
    }
  }
}

// Scores of -inf take no weight, alone in a tile or not; a row of nothing else is NaN with lse -inf.
TEST_P(AgreementTest, PagedAttentionInfiniteScores) {
  const KvBlockShape shape{8, 1, 8};
  constexpr int64_t kPositions = 19;
  Random random(8);
  std::vector<float> k = random.Floats(kPositions * 8);
  std::vector<float> v = random.Floats(kPositions * 8);
  for (int64_t p = 0; p < 11; ++p) k[p * 8] = -kInf;
  PagedKv kv(backend(), shape, kPositions, random);
  kv.Append(reference(), k, v, 0, one_);
  GuardedTensor q(kPositions, 8, random.Floats(kPositions * 8));
  for (int64_t t = 0; t < kPositions; ++t) q.tensor().f32_row(t)[0] = 1;
  GuardedTensor actual(kPositions, 8);
  GuardedTensor lse(kPositions, 1);
  GuardedTensor expected(kPositions, 8);
  const SequenceRows rows{0, kPositions, 0, kv.blocks()};
  PagedAttentionArgs args{.out = actual.tensor(),
                          .q = q.tensor(),
                          .lse = lse.tensor().f32(),
                          .shape = shape,
                          .sequences = {&rows, 1},
                          .heads = 1};
  ops().paged_attention(args, two_);
  args.out = expected.tensor();
  args.lse = nullptr;
  reference().paged_attention(args, one_);
  ExpectNear(actual.values(), expected.values(), kPagedAttentionTolerance, "infinite scores");
  EXPECT_TRUE(std::isnan(actual.tensor().f32_row(10)[0]));
  EXPECT_EQ(lse.values()[10], -kInf);
  EXPECT_TRUE(std::isfinite(actual.tensor().f32_row(11)[0]));
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
    ops().sample({absl::MakeSpan(actual), tensor, rows}, two_);
    reference().sample({absl::MakeSpan(expected), tensor, rows}, one_);
    EXPECT_EQ(actual, expected) << c.name;
  }
}

INTERLACE_OP_TEST(AgreementTest);

}  // namespace
}  // namespace interlace
