// The bit-identity rule (docs/contracts.md, exact.rows) as a property: an output row is the same to the last bit
// whatever the number of rows in the call, its place among them, the number of threads and where blocks lie. That of
// paged_attention is in attention_test.cc.
#include <cmath>
#include <numeric>

#include "tests/kernels/op_test.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

class ExactRowsTest : public OpTest {
 protected:
  ThreadTeam& AnyTeam(Random& random) {
    ThreadTeam* teams[] = {&one_, &two_, &three_};
    return *teams[random.Below(3)];
  }
  // Calls body(first, count, team) for consecutive chunks of [0, rows).
  template <typename Body>
  void InChunks(int64_t rows, Random& random, Body body) {
    const int64_t most = random.Between(1, rows);
    for (int64_t first = 0; first < rows;) {
      const int64_t count = std::min(rows - first, random.Between(1, most));
      body(first, count, AnyTeam(random));
      first += count;
    }
  }
  static Tensor View(std::vector<float>& values, int64_t cols) {
    return {values.data(), DType::kF32, static_cast<int64_t>(values.size()) / cols, cols};
  }

 private:
  ThreadTeam three_{3};
};

TEST_P(ExactRowsTest, Linear) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const DType dtype = AnyWeightType(random);
    const int64_t block = TraitsOf(dtype).block_elements;
    const int64_t k = block * random.Between(1, block == 1 ? 1300 : block == 32 ? 90 : 12);
    const int64_t rows = random.Between(1, 70);
    const int64_t tokens = seed % 10 == 0 ? 512 : random.Between(1, 110);
    std::vector<uint8_t> bytes = RandomWeights(dtype, rows, k, random);
    const Tensor w{bytes.data(), dtype, rows, k};
    std::vector<float> x = random.Floats(tokens * k);
    const std::vector<float> before = random.Floats(tokens * rows);
    const bool accumulate = random.Below(2) == 1;

    std::vector<float> whole = before;
    const PackedWeight packed(ops(), backend(), w);
    ops().linear({View(x, k), {{View(whole, rows), packed.weight(), nullptr, accumulate}}}, one_);
    for (int trial = 0; trial < 3; ++trial) {
      std::vector<float> parts = before;
      InChunks(tokens, random, [&](int64_t first, int64_t count, ThreadTeam& team) {
        ops().linear({View(x, k).Rows(first, count),
                      {{View(parts, rows).Rows(first, count), packed.weight(), nullptr, accumulate}}},
                     team);
      });
      ASSERT_TRUE(SameBits(whole, parts)) << "seed " << seed << ", " << TraitsOf(dtype).name << " [" << rows << ", "
                                          << k << "], " << tokens << " tokens";
    }
    // A part of the weight rows gives a part of the outputs.
    const int64_t first = random.Below(rows);
    std::vector<float> column(tokens);
    const PackedWeight one_row(ops(), backend(), w.Rows(first, 1));
    ops().linear({View(x, k), {{View(column, 1), one_row.weight()}}}, AnyTeam(random));
    if (!accumulate) {
      for (int64_t t = 0; t < tokens; ++t) ASSERT_EQ(column[t], whole[t * rows + first]) << "seed " << seed;
    }
  }
}

TEST_P(ExactRowsTest, GatedLinear) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const DType types[] = {AnyWeightType(random), AnyWeightType(random)};
    const int64_t k = 256 * random.Between(1, 4), rows = random.Between(1, 70);
    const int64_t tokens = seed % 10 == 0 ? 300 : random.Between(1, 40);
    std::vector<uint8_t> gate = RandomWeights(types[0], rows, k, random);
    std::vector<uint8_t> up = RandomWeights(types[seed % 2], rows, k, random);
    const PackedWeight g(ops(), backend(), {gate.data(), types[0], rows, k});
    const PackedWeight u(ops(), backend(), {up.data(), types[seed % 2], rows, k});
    const GateKind kind = random.Below(2) == 0 ? GateKind::kSilu : GateKind::kGeluTanh;
    std::vector<float> x = random.Floats(tokens * k);
    std::vector<float> whole(tokens * rows), parts(tokens * rows);
    ops().gated_linear({View(whole, rows), View(x, k), g.weight(), u.weight(), kind}, one_);
    InChunks(tokens, random, [&](int64_t first, int64_t count, ThreadTeam& team) {
      ops().gated_linear(
          {View(parts, rows).Rows(first, count), View(x, k).Rows(first, count), g.weight(), u.weight(), kind}, team);
    });
    ASSERT_TRUE(SameBits(whole, parts)) << "seed " << seed;
    // Its two products and the gate by themselves.
    std::vector<float> products(tokens * rows), ups(tokens * rows);
    ops().linear({View(x, k), {{View(products, rows), g.weight()}, {View(ups, rows), u.weight()}}}, one_);
    InChunks(tokens, random, [&](int64_t first, int64_t count, ThreadTeam& team) {
      ops().gate({View(products, rows).Rows(first, count), View(ups, rows).Rows(first, count), kind}, team);
    });
    ASSERT_TRUE(SameBits(whole, products)) << "seed " << seed;
  }
}

TEST_P(ExactRowsTest, RmsNorm) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const int64_t width = random.Between(1, 700);
    const int64_t tokens = random.Between(1, 60);
    std::vector<float> x = random.Floats(tokens * width);
    std::vector<float> weight = random.Floats(width);
    std::vector<float> whole(x.size());
    std::vector<float> parts(x.size());
    ops().rms_norm({View(whole, width), View(x, width), View(weight, width)}, one_);
    InChunks(tokens, random, [&](int64_t first, int64_t count, ThreadTeam& team) {
      ops().rms_norm({View(parts, width).Rows(first, count), View(x, width).Rows(first, count), View(weight, width)},
                     team);
    });
    ASSERT_TRUE(SameBits(whole, parts)) << "seed " << seed;
  }
}

TEST_P(ExactRowsTest, Rope) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    const auto head_dim = static_cast<int32_t>(2 * random.Between(1, 40));
    const int64_t width = head_dim * random.Between(1, 5);
    const int64_t tokens = random.Between(1, 60);
    const std::vector<float> x = random.Floats(tokens * width);
    std::vector<float> frequencies = random.Floats(head_dim / 2);
    std::vector<int32_t> positions(tokens);
    std::iota(positions.begin(), positions.end(), static_cast<int32_t>(random.Below(5000)));
    std::vector<float> whole = x;
    std::vector<float> parts = x;
    const RopePairs pairs = seed % 2 == 0 ? RopePairs::kAdjacent : RopePairs::kHalves;
    ops().rope({View(whole, width), positions, frequencies, head_dim, pairs}, one_);
    InChunks(tokens, random, [&](int64_t first, int64_t count, ThreadTeam& team) {
      ops().rope({View(parts, width).Rows(first, count), absl::MakeConstSpan(positions).subspan(first, count),
                  frequencies, head_dim, pairs},
                 team);
    });
    ASSERT_TRUE(SameBits(whole, parts)) << "seed " << seed;
  }
}

TEST_P(ExactRowsTest, Embedding) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed);
    const DType dtype = AnyWeightType(random);
    const int64_t width = std::max(32, TraitsOf(dtype).block_elements) * random.Between(1, 9);
    const int64_t vocab = random.Between(1, 40);
    const int64_t tokens = random.Between(1, 60);
    std::vector<uint8_t> bytes = RandomWeights(dtype, vocab, width, random);
    const PackedWeight packed(ops(), backend(), {bytes.data(), dtype, vocab, width});
    const LinearWeight table = packed.weight();
    std::vector<int32_t> ids(tokens);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.Below(vocab));
    std::vector<float> whole(tokens * width);
    std::vector<float> parts(tokens * width);
    ops().embedding({View(whole, width), table, ids}, one_);
    InChunks(tokens, random, [&](int64_t first, int64_t count, ThreadTeam& team) {
      ops().embedding({View(parts, width).Rows(first, count), table, absl::MakeConstSpan(ids).subspan(first, count)},
                      team);
    });
    ASSERT_TRUE(SameBits(whole, parts)) << "seed " << seed;
  }
}

TEST_P(ExactRowsTest, Sample) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed);
    const int64_t vocab = random.Between(1, 400);
    const int64_t count_of_rows = random.Between(1, 12);
    std::vector<float> logits = random.Floats(count_of_rows * vocab, 4);
    std::vector<SampleRow> rows(count_of_rows);
    for (SampleRow& row : rows) {
      row = {random.Uniform(0, 2), static_cast<int32_t>(random.Below(50)), random.Uniform(0.1f, 1), random.Next(),
             static_cast<uint64_t>(random.Below(1000))};
    }
    // Of some rows every step is on.
    const std::vector<TokenBias> bias = {{static_cast<int32_t>(random.Below(vocab)), 2}};
    const std::vector<SeenToken> seen = {{static_cast<int32_t>(random.Below(vocab)), 1}};
    const std::vector<int32_t> masked = {static_cast<int32_t>(random.Below(vocab))};
    for (size_t i = 0; i < rows.size(); i += 2) {
      rows[i].min_p = 0.01f;
      rows[i].typical_p = 0.9f;
      rows[i].repetition_penalty = 1.3f;
      rows[i].frequency_penalty = 0.5f;
      rows[i].bias = bias;
      rows[i].seen = seen;
      rows[i].masked = masked;
      rows[i].logprobs = 2;
    }
    std::vector<int32_t> whole(count_of_rows);
    std::vector<int32_t> parts(count_of_rows);
    std::vector<TokenLogprob> whole_logprobs(count_of_rows * 3), part_logprobs(count_of_rows * 3);
    ops().sample({absl::MakeSpan(whole), View(logits, vocab), rows, absl::MakeSpan(whole_logprobs), 3}, one_);
    InChunks(count_of_rows, random, [&](int64_t first, int64_t count, ThreadTeam& team) {
      ops().sample({absl::MakeSpan(parts).subspan(first, count), View(logits, vocab).Rows(first, count),
                    absl::MakeConstSpan(rows).subspan(first, count),
                    absl::MakeSpan(part_logprobs).subspan(first * 3, count * 3), 3},
                   team);
    });
    ASSERT_EQ(whole, parts) << "seed " << seed;
    ASSERT_EQ(whole_logprobs, part_logprobs) << "seed " << seed;
  }
}

INTERLACE_OP_TEST(ExactRowsTest);

}  // namespace
}  // namespace interlace
