// paged_attention on every op table: it agrees with the reference over shapes, types, windows, caps and several
// sequences per call; a row's bits depend on its own inputs alone (docs/contracts.md, exact.rows); nothing that a row
// does not see reaches it; nothing beside the outputs changes.
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/paged_attention/paged_attention_cases.h"
#include "tests/kernels/guarded_buffer.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// What all sequences of a call share.
struct Setting {
  KvBlockShape shape;
  int32_t heads = 1;
  int32_t window = 0;
  float soft_cap = 0;

  int64_t width() const { return int64_t{heads} * shape.head_dim; }
  int64_t kv_width() const { return int64_t{shape.kv_heads} * shape.head_dim; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(shape.head_dim)); }
  std::string ToString() const {
    return absl::StrCat(heads, " heads of ", shape.head_dim, " over ", shape.kv_heads, ", blocks of ",
                        shape.block_tokens, " ", TraitsOf(shape.dtype).name, ", window ", window, ", cap ", soft_cap);
  }
};

Setting RandomSetting(Random& random) {
  constexpr int32_t kBlocks[] = {8, 16, 16, 24, 32, 32, 40, 64, 128, 256, 264, 512};
  constexpr int32_t kDims[] = {8, 24, 40, 64, 64, 80, 96, 128, 256};
  Setting setting;
  setting.shape = {kBlocks[random.Below(std::size(kBlocks))], static_cast<int32_t>(random.Between(1, 3)),
                   kDims[random.Below(std::size(kDims))], kKvTypes[random.Below(4)]};
  const int64_t group = random.Below(12) == 0 ? random.Between(8, 110) : random.Between(1, 8);
  setting.heads = static_cast<int32_t>(setting.shape.kv_heads * group);
  if (group > 8) setting.shape.head_dim = 8;
  if (random.Below(3) == 0) setting.window = static_cast<int32_t>(random.Between(1, 400));
  if (random.Below(4) == 0) setting.soft_cap = random.Uniform(2, 50);
  return setting;
}

constexpr float kLargestK = 2, kLargestV = 1;

// Queries, keys and values of one sequence, by position.
struct Content {
  Content(const Setting& setting, int64_t positions, Random& random)
      : q(random.Floats(positions * setting.width(), 3)),
        k(random.Floats(positions * setting.kv_width(), kLargestK)),
        v(random.Floats(positions * setting.kv_width(), kLargestV)) {}
  std::vector<float> q, k, v;
};

PagedAttentionArgs ArgsOf(const Setting& setting, Tensor out, Tensor q, float* lse,
                          absl::Span<const SequenceRows> sequences) {
  return {.out = out,
          .q = q,
          .lse = lse,
          .shape = setting.shape,
          .sequences = sequences,
          .heads = setting.heads,
          .scale = setting.scale(),
          .window = setting.window,
          .soft_cap = setting.soft_cap};
}

// What a table with products of BF16 makes of a query (paged_attention.h).
float RoundedQuery(const Setting& setting, float q) {
  return BF16ToF32(F32ToBF16(q * (setting.scale() * kBf16ScoreUnit)));
}

class AttentionTest : public OpTest {
 protected:
  ThreadTeam& AnyTeam(Random& random) {
    ThreadTeam* teams[] = {&one_, &two_, &three_};
    return *teams[random.Below(3)];
  }

  // The reference is slow, and agrees with itself.
  uint64_t Seeds(uint64_t count) const { return &ops() == &reference() ? count / 10 : count; }

  bool RoundsToBf16(const Setting& setting) const {
    return ops().name == "avx512bf16" && setting.shape.dtype == DType::kBF16;
  }

  struct Results {
    std::vector<float> out, lse;
  };
  Results Reference(const PagedAttentionArgs& like, std::vector<float> q, float scale) {
    const int64_t rows = like.q.rows, width = like.q.cols;
    GuardedTensor queries(rows, width, q), out(rows, width), lse(rows, like.heads);
    PagedAttentionArgs args = like;
    args.q = queries.tensor();
    args.out = out.tensor();
    args.lse = lse.tensor().f32();
    args.scale = scale;
    reference().paged_attention(args, one_);
    return {out.values(), lse.values()};
  }

  // What paged_attention.h promises of a table with products of BF16: against the exact op, which scores may move, and
  // against the exact op on the rounded queries.
  void ExpectRounded(const Setting& setting, const PagedAttentionArgs& args, const std::vector<float>& q,
                     const Results& actual, const std::string& what) {
    const Results exact = Reference(args, q, args.scale);
    const int64_t head_dim = setting.shape.head_dim;
    std::vector<double> out_tolerance(exact.out.size()), lse_tolerance(exact.lse.size());
    for (size_t i = 0; i < lse_tolerance.size(); ++i) {
      double size = 0;
      for (int64_t d = 0; d < head_dim; ++d) size += std::abs(double{q[i * head_dim + d]});
      const double moved = kBf16Rounding * (args.scale * size * kLargestK + 1);
      lse_tolerance[i] = moved + kPagedAttentionTolerance * 8;
      std::fill_n(out_tolerance.begin() + i * head_dim, head_dim, moved * kLargestV + kPagedAttentionTolerance);
    }
    ExpectNear(actual.out, exact.out, out_tolerance, what + ", exact");
    ExpectNear(actual.lse, exact.lse, lse_tolerance, what + ", exact");
    std::vector<float> rounded = q;
    for (float& x : rounded) x = RoundedQuery(setting, x);
    const Results near = Reference(args, rounded, 1 / kBf16ScoreUnit);
    ExpectNear(actual.out, near.out, kBf16Rounding * kLargestV + kPagedAttentionTolerance, what);
    ExpectNear(actual.lse, near.lse, kBf16Rounding + kPagedAttentionTolerance * 8, what);
  }

  // Runs both tables over the same blocks and compares all that they wrote.
  void ExpectAgreement(const Setting& setting, int64_t rows, const std::vector<float>& queries,
                       absl::Span<const SequenceRows> sequences, ThreadTeam& team, const std::string& what) {
    GuardedTensor q(rows, setting.width(), queries);
    GuardedTensor actual(rows, setting.width()), actual_lse(rows, setting.heads);
    const PagedAttentionArgs args = ArgsOf(setting, actual.tensor(), q.tensor(), actual_lse.tensor().f32(), sequences);
    ops().paged_attention(args, team);
    if (RoundsToBf16(setting)) {
      ExpectRounded(setting, args, queries, {actual.values(), actual_lse.values()}, what);
    } else {
      const Results expected = Reference(args, queries, args.scale);
      ExpectNear(actual.values(), expected.out, kPagedAttentionTolerance, what);
      ExpectNear(actual_lse.values(), expected.lse, kPagedAttentionTolerance * 8, what);
    }
    EXPECT_TRUE(actual.Intact() && actual_lse.Intact() && q.Intact()) << what;
    EXPECT_TRUE(SameBits(q.values(), queries)) << what;
    // Rows of no sequence keep their filling.
    std::vector<bool> owned(rows);
    for (const SequenceRows& s : sequences) std::fill_n(owned.begin() + s.row, s.rows, true);
    GuardedTensor filling(1, setting.width());
    for (int64_t t = 0; t < rows; ++t) {
      if (owned[t]) continue;
      const std::vector<float> row(actual.tensor().f32_row(t), actual.tensor().f32_row(t) + setting.width());
      ASSERT_TRUE(SameBits(row, filling.values())) << what << ": row " << t << " is of no sequence";
    }
    // Without lse.
    GuardedTensor again(rows, setting.width());
    ops().paged_attention(ArgsOf(setting, again.tensor(), q.tensor(), nullptr, sequences), one_);
    EXPECT_TRUE(SameBits(again.values(), actual.values())) << what;
  }

 private:
  ThreadTeam three_{3};
};

// Without and with a NaN in the query of the first token's head 0, which must stay there.
TEST_P(AttentionTest, CasesAgree) {
  for (const PagedAttentionCase& c : kPagedAttentionCases) {
    // Long prefills are for benches: the reference takes minutes for them.
    if (c.tokens > (c.shape.dtype == DType::kF32 && &ops() != &reference() ? 600 : 60)) continue;
    Random random(7);
    const Setting setting{c.shape, c.heads, c.window, c.soft_cap};
    const int64_t positions = c.start + c.tokens;
    std::vector<std::unique_ptr<PagedKv>> kvs;
    std::vector<SequenceRows> rows;
    for (int64_t s = 0; s < c.sequences; ++s) {
      Content content(setting, positions, random);
      kvs.push_back(std::make_unique<PagedKv>(backend(), c.shape, positions, random));
      kvs.back()->Append(reference(), content.k, content.v, 0, one_);
      rows.push_back({s * c.tokens, c.tokens, c.start, kvs.back()->blocks()});
    }
    const int64_t tokens = c.tokens * c.sequences;
    std::vector<float> q = random.Floats(tokens * setting.width(), 2);
    ExpectAgreement(setting, tokens, q, rows, two_, std::string(c.name));
    if (tokens == 0 || tokens > 100 || positions > 50000) continue;
    q[c.shape.head_dim - 1] = kNan;
    ExpectAgreement(setting, tokens, q, rows, two_, absl::StrCat(c.name, " with a NaN"));
  }
}

// The reference itself, against sums in F64 over the unpaged rows.
TEST_P(AttentionTest, IsAttention) {
  Random random(11);
  const Setting setting{{16, 2, 24}, 6, 20, 9.5f};
  constexpr int64_t kTokens = 50;
  Content content(setting, kTokens, random);
  PagedKv kv(backend(), setting.shape, kTokens, random);
  kv.Append(ops(), content.k, content.v, 0, one_);
  std::vector<float> out(content.q.size()), lse(kTokens * setting.heads);
  const SequenceRows rows{0, kTokens, 0, kv.blocks()};
  ops().paged_attention(ArgsOf(setting, {out.data(), DType::kF32, kTokens, setting.width()},
                               {content.q.data(), DType::kF32, kTokens, setting.width()}, lse.data(), {&rows, 1}),
                        two_);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t head = 0; head < 6; ++head) {
      const float* q = &content.q[t * setting.width() + head * 24];
      double sum = 0;
      std::vector<double> expected(24);
      for (int64_t p = std::max<int64_t>(0, t - 19); p <= t; ++p) {
        const int64_t at = p * setting.kv_width() + head / 3 * 24;
        double score = 0;
        for (int64_t d = 0; d < 24; ++d) score += double{q[d]} * content.k[at + d];
        const double weight = std::exp(9.5 * std::tanh(score / std::sqrt(24.0) / 9.5));
        sum += weight;
        for (int64_t d = 0; d < 24; ++d) expected[d] += weight * content.v[at + d];
      }
      for (int64_t d = 0; d < 24; ++d) {
        ASSERT_NEAR(out[t * setting.width() + head * 24 + d], expected[d] / sum, kPagedAttentionTolerance);
      }
      ASSERT_NEAR(lse[t * 6 + head], std::log(sum), kPagedAttentionTolerance * 8);
    }
  }
}

// Products of BF16, against the same roundings and sums in F64: what bounds on rounding errors would let pass, such as
// one position of many left out, shows here.
TEST_P(AttentionTest, RoundsAsItSays) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    Random random(seed);
    const Setting setting{{16, 1, 32, DType::kBF16},
                          2,
                          seed % 2 == 0 ? 0 : static_cast<int32_t>(random.Between(90, 300)),
                          seed % 4 < 2 ? 0.f : 3.f};
    if (!RoundsToBf16(setting)) GTEST_SKIP() << "no products of BF16";
    constexpr int64_t kTokens = 600, kSplit = 256;
    const int64_t first = seed < 4 ? 0 : random.Between(400, kTokens - 3);  // a prompt, or a few rows
    const int64_t count = seed < 4 ? kTokens : 3;
    Content content(setting, kTokens, random);
    for (float& q : content.q) q *= 0.2f;
    PagedKv kv(backend(), setting.shape, kTokens, random);
    kv.Append(reference(), content.k, content.v, 0, one_);
    std::vector<float> out(count * setting.width()), lse(count * setting.heads);
    const SequenceRows rows{0, count, static_cast<int32_t>(first), kv.blocks()};
    ops().paged_attention(
        ArgsOf(setting, {out.data(), DType::kF32, count, setting.width()},
               {&content.q[first * setting.width()], DType::kF32, count, setting.width()}, lse.data(), {&rows, 1}),
        two_);
    const auto stored = [](float x) { return double{BF16ToF32(F32ToBF16(x))}; };
    for (int64_t i = 0; i < count * 2; ++i) {
      const int64_t t = first + i / 2;
      const int64_t begin = setting.window > 0 ? std::max<int64_t>(0, t + 1 - setting.window) : 0;
      std::vector<double> scores(t + 1), expected(32);
      for (int64_t p = begin; p <= t; ++p) {
        for (int64_t d = 0; d < 32; ++d) {
          scores[p] +=
              double{RoundedQuery(setting, content.q[t * 64 + i % 2 * 32 + d])} * stored(content.k[p * 32 + d]);
        }
        const double cap = setting.soft_cap * double{kBf16ScoreUnit};
        if (cap > 0) scores[p] = cap * std::tanh(scores[p] / cap);
      }
      double sum = 0, largest = 0;
      for (int64_t p = begin; p <= t; ++p) {
        const auto split = scores.begin() + p / kSplit * kSplit;
        const double top =
            *std::max_element(std::max(split, scores.begin() + begin), std::min(split + kSplit, scores.end()));
        const double weight = stored(static_cast<float>(std::exp2(scores[p] - top))) * std::exp2(top);
        sum += weight;
        largest = std::max(largest, weight);
        for (int64_t d = 0; d < 32; ++d) expected[d] += weight * stored(content.v[p * 32 + d]);
      }
      // Weights between two roundings may go either way: that of a few.
      const double tolerance = kPagedAttentionTolerance + 2 * kBf16Rounding * largest / sum;
      for (int64_t d = 0; d < 32; ++d) ASSERT_NEAR(out[i * 32 + d], expected[d] / sum, tolerance) << seed << ", " << t;
      ASSERT_NEAR(lse[i], std::log(sum), tolerance) << seed << ", " << t;
    }
  }
}

// Several sequences per call, rows of none between them, blocks before the window gone, NaN in some K or V.
TEST_P(AttentionTest, AnyCallAgrees) {
  for (uint64_t seed = 0; seed < Seeds(60); ++seed) {
    Random random(seed);
    const Setting setting = RandomSetting(random);
    std::vector<std::unique_ptr<PagedKv>> kvs;
    std::vector<SequenceRows> sequences;
    int64_t rows = random.Below(3);
    for (int64_t s = random.Between(1, 5); s > 0; --s) {
      const int64_t count = random.Below(2) == 0 ? 1 : random.Below(25);
      const auto start = static_cast<int32_t>(random.Below(random.Below(2) == 0 ? 40 : 700));
      Content content(setting, start + count, random);
      if (random.Below(5) == 0 && count > 0) {
        std::vector<float>& poisoned = random.Below(2) == 0 ? content.k : content.v;
        poisoned[random.Below(static_cast<int64_t>(poisoned.size()))] = kNan;
      }
      kvs.push_back(std::make_unique<PagedKv>(backend(), setting.shape, start + count, random));
      kvs.back()->Append(reference(), content.k, content.v, 0, one_);
      if (setting.window > 0 && start + 1 > setting.window) {
        kvs.back()->Drop((start + 1 - setting.window) / setting.shape.block_tokens);
      }
      sequences.push_back({rows, count, start, kvs.back()->blocks()});
      rows += count + random.Below(3);
    }
    const std::vector<float> q = random.Floats(rows * setting.width(), 3);
    ExpectAgreement(setting, rows, q, sequences, AnyTeam(random),
                    absl::StrCat("seed ", seed, ": ", setting.ToString()));
    if (HasFatalFailure()) return;
  }
}

// A row is the same to the last bit whatever its chunk, the others of the call, the threads and the blocks' places.
TEST_P(AttentionTest, RowsAreExact) {
  for (uint64_t seed = 0; seed < Seeds(48); ++seed) {
    Random random(1000 + seed);
    const Setting setting = RandomSetting(random);
    struct Sequence {
      Content content;
      std::vector<float> out, lse;
      int64_t positions;
    };
    std::vector<Sequence> all;
    for (int64_t s = random.Between(1, 3); s > 0; --s) {
      const int64_t positions = random.Between(1, seed % 6 == 0 ? 700 : 120);
      Sequence one{Content(setting, positions, random), {}, {}, positions};
      one.out.resize(positions * setting.width());
      one.lse.resize(positions * setting.heads);
      PagedKv kv(backend(), setting.shape, positions, random);
      kv.Append(ops(), one.content.k, one.content.v, 0, one_);
      const SequenceRows rows{0, positions, 0, kv.blocks()};
      ops().paged_attention(
          ArgsOf(setting, {one.out.data(), DType::kF32, positions, setting.width()},
                 {one.content.q.data(), DType::kF32, positions, setting.width()}, one.lse.data(), {&rows, 1}),
          one_);
      all.push_back(std::move(one));
    }
    for (int trial = 0; trial < 6; ++trial) {
      std::vector<std::unique_ptr<PagedKv>> kvs;
      std::vector<SequenceRows> sequences;
      std::vector<float> q;
      int64_t rows = 0;
      for (Sequence& s : all) {
        const int64_t count = trial % 2 == 0 ? 1 : random.Between(1, s.positions);
        const int64_t first = random.Below(s.positions - count + 1);
        const int64_t gap = random.Below(2);
        rows += gap;
        q.resize(rows * setting.width());
        q.insert(q.end(), s.content.q.begin() + first * setting.width(),
                 s.content.q.begin() + (first + count) * setting.width());
        kvs.push_back(std::make_unique<PagedKv>(backend(), setting.shape, s.positions, random));
        kvs.back()->Append(ops(), s.content.k, s.content.v, 0, AnyTeam(random));
        sequences.push_back({rows, count, static_cast<int32_t>(first), kvs.back()->blocks()});
        rows += count;
      }
      std::vector<float> out(q.size()), lse(rows * setting.heads);
      ops().paged_attention(ArgsOf(setting, {out.data(), DType::kF32, rows, setting.width()},
                                   {q.data(), DType::kF32, rows, setting.width()}, lse.data(), sequences),
                            AnyTeam(random));
      for (size_t i = 0; i < all.size(); ++i) {
        const SequenceRows& s = sequences[i];
        const auto part = [](const std::vector<float>& from, int64_t first, int64_t count, int64_t width) {
          return std::vector<float>(from.begin() + first * width, from.begin() + (first + count) * width);
        };
        ASSERT_TRUE(
            SameBits(part(out, s.row, s.rows, setting.width()), part(all[i].out, s.start, s.rows, setting.width())) &&
            SameBits(part(lse, s.row, s.rows, setting.heads), part(all[i].lse, s.start, s.rows, setting.heads)))
            << "seed " << seed << ": " << setting.ToString() << ", rows [" << s.start << ", " << s.start + s.rows
            << ") of " << all[i].positions;
      }
    }
  }
}

// A NaN at position 60, in K or in V, reaches the rows from there on and no row before, of its own KV head alone.
TEST_P(AttentionTest, NanStaysAmongThoseWhoSeeIt) {
  for (const DType dtype : kKvTypes) {
    for (const bool in_k : {false, true}) {
      Random random(5);
      const Setting setting{{16, 2, 64, dtype}, 6};
      constexpr int64_t kTokens = 100, kPoisoned = 60;
      Content content(setting, kTokens, random);
      (in_k ? content.k : content.v)[kPoisoned * setting.kv_width() + 3] = kNan;
      PagedKv kv(backend(), setting.shape, kTokens, random);
      kv.Append(ops(), content.k, content.v, 0, one_);
      std::vector<float> out(content.q.size());
      const SequenceRows rows{0, kTokens, 0, kv.blocks()};
      ops().paged_attention(ArgsOf(setting, {out.data(), DType::kF32, kTokens, setting.width()},
                                   {content.q.data(), DType::kF32, kTokens, setting.width()}, nullptr, {&rows, 1}),
                            two_);
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t head = 0; head < 6; ++head) {
          const float value = out[t * setting.width() + head * 64 + 3];
          ASSERT_EQ(std::isnan(value), t >= kPoisoned && head < 3) << "token " << t << ", head " << head;
        }
      }
    }
  }
}

// Scores of -inf take no weight, alone in a tile or not; a row of nothing else is NaN with lse -inf.
TEST_P(AttentionTest, InfiniteScores) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Setting setting{{8, 1, 8, dtype}, 1};
    constexpr int64_t kPositions = 19;
    Random random(8);
    std::vector<float> k = random.Floats(kPositions * 8);
    std::vector<float> v = random.Floats(kPositions * 8);
    for (int64_t p = 0; p < 11; ++p) k[p * 8] = -kInf;
    PagedKv kv(backend(), setting.shape, kPositions, random);
    kv.Append(reference(), k, v, 0, one_);
    std::vector<float> q = random.Floats(kPositions * 8);
    for (int64_t t = 0; t < kPositions; ++t) q[t * 8] = 1;
    const SequenceRows rows{0, kPositions, 0, kv.blocks()};
    ExpectAgreement(setting, kPositions, q, {&rows, 1}, two_, "infinite scores");
    std::vector<float> out(kPositions * 8), lse(kPositions);
    ops().paged_attention(ArgsOf(setting, {out.data(), DType::kF32, kPositions, 8},
                                 {q.data(), DType::kF32, kPositions, 8}, lse.data(), {&rows, 1}),
                          one_);
    EXPECT_TRUE(std::isnan(out[10 * 8]));
    EXPECT_EQ(lse[10], -kInf);
    EXPECT_TRUE(std::isfinite(out[11 * 8]));
  }
}

// What a row does not see of a pair of positions never reaches it: NaN in K and V of one position, seen by rows beside
// it or by none, at every place of a window's first position and of the diagonal.
TEST_P(AttentionTest, NanBesideTheWindow) {
  for (const int32_t window : {0, 1, 2, 5, 16, 31}) {
    for (const int64_t poisoned : {40, 41}) {
      Random random(window);
      const Setting setting{{16, 1, 16, DType::kBF16}, 3, window};
      constexpr int64_t kTokens = 90;
      Content content(setting, kTokens, random);
      std::fill_n(content.k.begin() + poisoned * 16, 16, kNan);
      std::fill_n(content.v.begin() + poisoned * 16, 16, kNan);
      PagedKv kv(backend(), setting.shape, kTokens, random);
      kv.Append(ops(), content.k, content.v, 0, one_);
      for (const int64_t count : {int64_t{1}, int64_t{2}, int64_t{7}, kTokens}) {  // in place, and unpacked
        for (int64_t first = 0; first + count <= kTokens; first += count) {
          std::vector<float> out(count * 48);
          const SequenceRows rows{0, count, static_cast<int32_t>(first), kv.blocks()};
          ops().paged_attention(ArgsOf(setting, {out.data(), DType::kF32, count, 48},
                                       {&content.q[first * 48], DType::kF32, count, 48}, nullptr, {&rows, 1}),
                                two_);
          for (int64_t i = 0; i < count * 48; ++i) {
            const int64_t t = first + i / 48;
            const bool sees = t >= poisoned && (window == 0 || t < poisoned + window);
            ASSERT_EQ(std::isnan(out[i]), sees) << "window " << window << ", NaN at " << poisoned << ", row " << t;
          }
        }
      }
    }
  }
}

INTERLACE_OP_TEST(AttentionTest);

}  // namespace
}  // namespace interlace
