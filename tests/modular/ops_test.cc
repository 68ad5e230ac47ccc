// The modular ops by themselves: shards of tensor parallelism add up to the whole, exactly.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/modular/modular.h"
#include "tests/kernels/packed_weight.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

std::vector<float> Residues(int64_t count, Random& random) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.Below(kPrime));
  return values;
}
Tensor View(std::vector<float>& values, int64_t cols) {
  return {values.data(), DType::kF32, static_cast<int64_t>(values.size()) / cols, cols};
}

class ModularOpsTest : public ::testing::Test {
 protected:
  const OpTable& ops() const { return backend_->ops(); }
  std::unique_ptr<Backend> backend_ = MakeModularBackend({.threads = 2}).value();
};

TEST_F(ModularOpsTest, SumsOfResiduesAreResidues) {
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    float sum = 0;
    int64_t exact = 0;
    for (int shard = 0; shard < 64; ++shard) {
      const int64_t residue = i == 0 ? kPrime - 1 : random.Below(kPrime);
      sum += static_cast<float>(residue);
      exact += residue;
    }
    ASSERT_EQ(ResidueOf(sum), exact % kPrime);
  }
  EXPECT_EQ(ResidueOfWeight(0), 0);
  EXPECT_EQ(ResidueOfWeight(-0.0f), 0);
  EXPECT_NE(ResidueOfWeight(1e-30f), 0);
  EXPECT_EQ(ResidueOf(-1), kPrime - 1);
}

// A matrix cut by columns (each shard sees a part of x, the partial results are added up in F32) and by rows.
TEST_F(ModularOpsTest, LinearShards) {
  constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1};
  for (uint64_t seed = 0; seed < 120; ++seed) {
    Random random(seed);
    const DType dtype = kTypes[random.Below(6)];
    const int64_t shards = random.Between(1, 4), k = 32 * shards * random.Between(1, 5);
    const int64_t rows = shards * random.Between(1, 20), tokens = random.Between(1, 12);
    std::vector<uint8_t> bytes = RandomWeights(dtype, rows, k, random);
    const PackedWeight whole(ops(), *backend_, {bytes.data(), dtype, rows, k});
    std::vector<float> x = Residues(tokens * k, random), want = Residues(tokens * rows, random);
    const std::vector<float> residual = want;
    ops().linear({View(x, k), {{.y = View(want, rows), .w = whole.weight(), .accumulate = true}}}, backend_->context());

    std::vector<float> by_columns = residual, by_rows = residual;
    const int64_t part = k / shards, part_rows = rows / shards;
    for (int64_t s = 0; s < shards; ++s) {
      std::vector<uint8_t> columns;
      std::vector<float> mine;
      for (int64_t r = 0; r < rows; ++r) {
        const auto from = bytes.begin() + r * RowBytes(dtype, k) + RowBytes(dtype, s * part);
        columns.insert(columns.end(), from, from + RowBytes(dtype, part));
      }
      for (int64_t t = 0; t < tokens; ++t) {
        mine.insert(mine.end(), x.begin() + t * k + s * part, x.begin() + t * k + (s + 1) * part);
      }
      std::vector<float> partial(tokens * rows);
      const PackedWeight shard(ops(), *backend_, {columns.data(), dtype, rows, part});
      ops().linear({View(mine, part), {{View(partial, rows), shard.weight()}}}, backend_->context());
      for (size_t i = 0; i < partial.size(); ++i) by_columns[i] += partial[i];  // an all-reduce

      std::vector<float> y(tokens * part_rows);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < part_rows; ++r) y[t * part_rows + r] = residual[t * rows + s * part_rows + r];
      }
      const PackedWeight slice(ops(), *backend_,
                               {bytes.data() + s * part_rows * RowBytes(dtype, k), dtype, part_rows, k});
      ops().linear({View(x, k), {{.y = View(y, part_rows), .w = slice.weight(), .accumulate = true}}},
                   backend_->context());
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < part_rows; ++r) by_rows[t * rows + s * part_rows + r] = y[t * part_rows + r];
      }
    }
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(ResidueOf(by_columns[i]), ResidueOf(want[i])) << "seed " << seed;
      ASSERT_EQ(by_rows[i], want[i]) << "seed " << seed;
    }
    // What follows makes the same of a sum that is not yet reduced as of its residue.
    std::vector<float> norm = Residues(rows, random), a = want, b = by_columns;
    ops().rms_norm({View(a, rows), View(a, rows), View(norm, rows)}, backend_->context());
    ops().rms_norm({View(b, rows), View(b, rows), View(norm, rows)}, backend_->context());
    ASSERT_EQ(a, b) << "seed " << seed;
  }
}

// Some of the heads on another rank, with their own KV.
TEST_F(ModularOpsTest, AttentionShardsByHead) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const auto kv_heads = static_cast<int32_t>(random.Between(1, 4)),
               group = static_cast<int32_t>(random.Between(1, 3));
    const KvBlockShape shape{8, kv_heads, 8};
    const int64_t positions = random.Between(1, 50), width = int64_t{kv_heads} * group * 8;
    const auto window = static_cast<int32_t>(random.Below(2) * random.Between(1, 20));
    std::vector<float> k = Residues(positions * kv_heads * 8, random), v = Residues(positions * kv_heads * 8, random);
    std::vector<float> q = Residues(positions * width, random), want(positions * width);
    const auto attend = [&](const KvBlockShape& s, std::vector<float>& keys, std::vector<float>& values,
                            std::vector<float>& queries, std::vector<float>& out) {
      PagedKv kv(*backend_, s, positions, random);
      kv.Append(ops(), keys, values, 0, backend_->context());
      const SequenceRows rows{0, positions, 0, kv.blocks()};
      const int64_t cols = int64_t{s.kv_heads} * group * 8;
      ops().paged_attention({.out = View(out, cols),
                             .q = View(queries, cols),
                             .shape = s,
                             .sequences = {&rows, 1},
                             .heads = s.kv_heads * group,
                             .window = window},
                            backend_->context());
    };
    attend(shape, k, v, q, want);
    for (int32_t h = 0; h < kv_heads; ++h) {
      const auto slice = [&](const std::vector<float>& all, int64_t cols) {
        std::vector<float> mine;
        const int64_t row = cols * kv_heads;
        for (int64_t p = 0; p < positions; ++p) {
          mine.insert(mine.end(), all.begin() + p * row + h * cols, all.begin() + p * row + (h + 1) * cols);
        }
        return mine;
      };
      std::vector<float> hk = slice(k, 8), hv = slice(v, 8), hq = slice(q, int64_t{group} * 8);
      std::vector<float> out(hq.size());
      attend({8, 1, 8}, hk, hv, hq, out);
      ASSERT_EQ(out, slice(want, int64_t{group} * 8)) << "seed " << seed << ", head " << h;
    }
  }
}

TEST_F(ModularOpsTest, SampleIsGreedyAndKnowsSeedAndIndex) {
  Random random(4);
  std::vector<float> logits = Residues(300, random);
  const auto draw = [&](const SampleRow& row) {
    int32_t token = -1;
    ops().sample({{&token, 1}, View(logits, 300), {&row, 1}}, backend_->context());
    return token;
  };
  EXPECT_EQ(draw({}), std::max_element(logits.begin(), logits.end()) - logits.begin());
  int same_seed = 0, same_index = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const SampleRow row{.temperature = 1, .seed = i, .index = 5};
    EXPECT_EQ(draw(row), draw(row));
    same_seed += draw(row) == draw({.temperature = 1, .seed = i + 1, .index = 5});
    same_index += draw(row) == draw({.temperature = 1, .seed = i, .index = 6});
  }
  EXPECT_LT(same_seed, 20);
  EXPECT_LT(same_index, 20);
}

}  // namespace
}  // namespace interlace
