// kv_append on every op table: what is stored is what the contract says, where the layout says, and nothing beside it
// changes.
#include <cmath>
#include <limits>

#include "kernels/kv_append/kv_append_cases.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/paged_kv.h"

namespace interlace {
namespace {

class KvAppendTest : public OpTest {
 protected:
  // Values with ties, overflows, denormals, zeros and a few NaNs among the ordinary.
  static std::vector<float> Values(int64_t count, Random& random) {
    constexpr float kSpecial[] = {
        0.0f,   -0.0f,    1e-8f,    6e-8f,    65504.0f, 65520.0f, -70000.0f,
        1e-40f, 1.00049f, 2.00195f, 1.00391f, 3e38f,    0.5f,     std::numeric_limits<float>::infinity()};
    std::vector<float> values = random.Floats(count, 3);
    for (float& value : values) {
      if (random.Below(400) == 0) value = kSpecial[random.Below(std::size(kSpecial))];
      if (random.Below(4000) == 0) value = std::numeric_limits<float>::quiet_NaN();
    }
    return values;
  }
  static void ExpectSameContents(const PagedKv& actual, const PagedKv& expected, const std::string& what) {
    for (int64_t b = 0; b < actual.block_count(); ++b) {
      const std::vector<float> a = actual.Contents(b), e = expected.Contents(b);
      for (size_t i = 0; i < e.size(); ++i) {
        ASSERT_TRUE(std::isnan(e[i]) ? std::isnan(a[i]) : a[i] == e[i] && std::signbit(a[i]) == std::signbit(e[i]))
            << what << ", block " << b << " [" << i << "]: " << a[i] << " against " << e[i];
      }
    }
  }
};

TEST_P(KvAppendTest, AgreesWithTheReference) {
  for (const KvAppendCase& c : kKvAppendCases) {
    Random random(6);
    const int64_t width = int64_t{c.shape.kv_heads} * c.shape.head_dim;
    std::vector<float> k = Values(c.tokens * width, random);
    std::vector<float> v = Values(c.tokens * width, random);
    PagedKv actual(backend(), c.shape, c.start + c.tokens, random);
    PagedKv expected(backend(), c.shape, c.start + c.tokens, random);
    actual.Append(ops(), k, v, c.start, two_);
    expected.Append(reference(), k, v, c.start, one_);
    ExpectSameContents(actual, expected, std::string(c.name));
  }
}

// Several sequences per call, rows of none between them; unwritten slots keep their bits.
TEST_P(KvAppendTest, AnyShapesAndSequences) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const KvBlockShape shape{static_cast<int32_t>(8 * random.Between(1, 9)), static_cast<int32_t>(random.Between(1, 3)),
                             static_cast<int32_t>(8 * random.Between(1, 12)), kKvTypes[seed % 4]};
    const int64_t width = int64_t{shape.kv_heads} * shape.head_dim;
    std::vector<std::unique_ptr<PagedKv>> actual, expected;
    std::vector<SequenceRows> actual_rows, expected_rows;
    int64_t rows = random.Below(3);
    for (int64_t s = random.Between(1, 4); s > 0; --s) {
      const int64_t count = random.Below(4) == 0 ? 1 : random.Below(90);
      const auto start = static_cast<int32_t>(random.Below(60));
      actual.push_back(std::make_unique<PagedKv>(backend(), shape, start + count, random));
      expected.push_back(std::make_unique<PagedKv>(backend(), shape, start + count, random));
      actual_rows.push_back({rows, count, start, actual.back()->blocks()});
      expected_rows.push_back({rows, count, start, expected.back()->blocks()});
      rows += count + random.Below(3);
    }
    std::vector<float> k = Values(rows * width, random);
    std::vector<float> v = Values(rows * width, random);
    KvAppendArgs args{shape, {k.data(), DType::kF32, rows, width}, {v.data(), DType::kF32, rows, width}, actual_rows};
    ops().kv_append(args, seed % 3 == 0 ? one_ : two_);
    args.sequences = expected_rows;
    reference().kv_append(args, one_);
    for (size_t s = 0; s < actual.size(); ++s) {
      ExpectSameContents(*actual[s], *expected[s], absl::StrCat("seed ", seed, " ", TraitsOf(shape.dtype).name));
    }
  }
}

// The layout itself, and the rounding, from the contract.
TEST_P(KvAppendTest, StoresWhatTheContractSays) {
  for (const DType dtype : kKvTypes) {
    Random random(9);
    const KvBlockShape shape{24, 2, 16, dtype};
    constexpr int64_t kTokens = 45, kWidth = 32;
    std::vector<float> k = random.Floats(kTokens * kWidth, 2);
    std::vector<float> v = random.Floats(kTokens * kWidth, 2);
    PagedKv kv(backend(), shape, kTokens, random);
    kv.Append(ops(), k, v, 0, two_);
    for (int64_t t = 0; t < kTokens; ++t) {
      const std::vector<float> stored = kv.Contents(t / 24);
      for (int64_t i = 0; i < kWidth; ++i) {
        const int64_t head = i / 16, d = i % 16, slot = t % 24;
        float k_stored = stored[(head * 16 + d) * 24 + slot];
        float v_stored = stored[shape.k_elements() + (head * 24 + slot) * 16 + d];
        double k_step = 0, v_step = 0;  // between neighbouring values that the type has
        if (dtype == DType::kI8) {
          k_step = stored[2 * shape.k_elements() + head * 24 + slot];
          v_step = stored[2 * shape.k_elements() + 2 * 24 + head * 24 + slot];
          k_stored *= static_cast<float>(k_step);
          v_stored *= static_cast<float>(v_step);
          ASSERT_LE(k_step, 2.0 / 127 * 1.001);
        } else if (dtype != DType::kF32) {
          const double bits = dtype == DType::kF16 ? 0x1p-10 : 0x1p-7;
          k_step = std::abs(k[t * kWidth + i]) * bits + 1e-7;
          v_step = std::abs(v[t * kWidth + i]) * bits + 1e-7;
        }
        ASSERT_LE(std::abs(double{k_stored} - k[t * kWidth + i]), k_step / 2 * 1.0001) << TraitsOf(dtype).name;
        ASSERT_LE(std::abs(double{v_stored} - v[t * kWidth + i]), v_step / 2 * 1.0001) << TraitsOf(dtype).name;
      }
    }
  }
}

INTERLACE_OP_TEST(KvAppendTest);

}  // namespace
}  // namespace interlace
