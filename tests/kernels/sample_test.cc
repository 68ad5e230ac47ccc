#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/sample/philox.h"
#include "kernels/sample/sample_rows.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
TEST(PhiloxTest, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(SampleUniformTest, IsUniformAndDependsOnSeedAndIndexAlone) {
  constexpr int kDraws = 20000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = SampleUniform(42, i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.01);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.01);
  EXPECT_EQ(SampleUniform(42, 7), SampleUniform(42, 7));
  EXPECT_NE(SampleUniform(42, 7), SampleUniform(43, 7));
  EXPECT_NE(SampleUniform(uint64_t{1} << 40, 7), SampleUniform(0, 7));
  EXPECT_NE(SampleUniform(42, uint64_t{1} << 40), SampleUniform(42, 0));
}

class SampleTest : public OpTest {
 protected:
  int32_t One(std::vector<float> logits, const SampleRow& row) {
    int32_t token = -7;
    ops().sample({absl::MakeSpan(&token, 1),
                  {logits.data(), DType::kF32, 1, static_cast<int64_t>(logits.size())},
                  absl::MakeConstSpan(&row, 1)},
                 one_);
    return token;
  }
  // How often each token is drawn over `draws` indices.
  std::vector<int> Counts(const std::vector<float>& logits, SampleRow row, int draws) {
    std::vector<int> counts(logits.size());
    for (row.index = 0; row.index < static_cast<uint64_t>(draws); ++row.index) ++counts[One(logits, row)];
    return counts;
  }
};

std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// A token that is given is scored as the row is, whatever else the row's settings say, and ranked in the order of its
// log probabilities.
TEST_P(SampleTest, AGivenTokenIsScoredAndRanked) {
  Random random(3);
  for (const int64_t vocab : {1, 13, 32, 290, 5000}) {
    std::vector<float> logits(vocab);
    for (float& x : logits) x = static_cast<float>(random.Below(40)) / 4;  // with ties
    if (vocab > 13) logits[7] = -kInf, logits[9] = kNan;
    std::vector<int32_t> order;
    double total = 0;
    for (int32_t i = 0; i < vocab; ++i) {
      if (!std::isfinite(logits[i])) continue;
      order.push_back(i);
      total += std::exp(double{logits[i]});
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (int32_t given = 0; given<vocab; given += vocab> 300 ? 97 : 1) {
      SampleRow row{.temperature = 1.5f, .top_k = 3, .logprobs = 2, .given = given};
      const TokenBias bias{given, 9};
      row.bias = absl::MakeConstSpan(&bias, 1);
      int32_t token = -7, rank = -7;
      std::vector<TokenLogprob> logprobs(3);
      ops().sample({absl::MakeSpan(&token, 1),
                    {logits.data(), DType::kF32, 1, vocab},
                    absl::MakeConstSpan(&row, 1),
                    absl::MakeSpan(logprobs),
                    3,
                    absl::MakeSpan(&rank, 1)},
                   one_);
      EXPECT_EQ(token, given);
      EXPECT_EQ(logprobs[0].token, given);
      if (!std::isfinite(logits[given])) {
        EXPECT_EQ(logprobs[0].logprob, -kInf);
        EXPECT_GT(rank, static_cast<int32_t>(order.size()));
        continue;
      }
      EXPECT_EQ(order[rank - 1], given);
      EXPECT_NEAR(logprobs[0].logprob, logits[given] - std::log(total), 1e-4);
      EXPECT_EQ(logprobs[1].token, order[0]);
      EXPECT_TRUE(rank != 1 || logprobs[1] == logprobs[0]);
    }
  }
  std::vector<float> nothing = {kNan, -kInf};
  const SampleRow row{.logprobs = 0, .given = 1};
  int32_t token = -7, rank = -7;
  TokenLogprob logprob;
  ops().sample({absl::MakeSpan(&token, 1),
                {nothing.data(), DType::kF32, 1, 2},
                absl::MakeConstSpan(&row, 1),
                absl::MakeSpan(&logprob, 1),
                1,
                absl::MakeSpan(&rank, 1)},
               one_);
  EXPECT_EQ(rank, 0);
  EXPECT_EQ(logprob.token, -1);
}

TEST_P(SampleTest, GreedyTakesTheLargestAndTheLowestIdOnATie) {
  EXPECT_EQ(One({1, 3, 2, 3}, {}), 1);
  EXPECT_EQ(One({-5, -5, -5}, {}), 0);
  EXPECT_EQ(One({-0.0f, 0.0f}, {}), 0);
}

TEST_P(SampleTest, ValuesThatAreNotFiniteAreNeverChosen) {
  for (const float temperature : {0.0f, 1.0f}) {
    const SampleRow row{.temperature = temperature};
    EXPECT_EQ(One({kNan, -kInf, 4, kNan, kInf}, row), 2);
    EXPECT_EQ(One({kNan, -kInf, kNan}, row), -1);
  }
  EXPECT_EQ(One({kNan, 1, 2}, {.temperature = 1, .top_k = 1}), 2);
}

TEST_P(SampleTest, FollowsTheDistribution) {
  const std::vector<double> p = {0.4, 0.02, 0.2, 0.13, 0.1, 0.07, 0.05, 0.03};
  constexpr int kDraws = 20000;
  const std::vector<int> counts = Counts(LogitsOf(p), {.temperature = 1, .seed = 11}, kDraws);
  double chi_square = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * kDraws;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 24.3);  // 99.9% of 7 degrees of freedom
}

TEST_P(SampleTest, TemperatureSharpensAndFlattens) {
  const std::vector<float> logits = {0, 1, 2, 3};
  EXPECT_EQ(Counts(logits, {.temperature = 0.01f}, 200)[3], 200);
  EXPECT_EQ(Counts(logits, {.temperature = 1e-38f}, 200)[3], 200);
  const std::vector<int> flat = Counts(logits, {.temperature = 1e6f}, 4000);
  for (int count : flat) EXPECT_NEAR(count, 1000, 120);
}

TEST_P(SampleTest, TopKKeepsTheLargestWithTiesByLowerId) {
  const std::vector<int> counts = Counts({1, 2, 1, 2, 2, 0}, {.temperature = 5, .top_k = 4}, 3000);
  EXPECT_EQ(counts[2], 0);  // ties with token 0, which comes first
  EXPECT_EQ(counts[5], 0);
  for (int kept : {0, 1, 3, 4}) EXPECT_GT(counts[kept], 300);
  EXPECT_EQ(Counts({1, 2, 1, 2, 2, 0}, {.temperature = 5, .top_k = 1}, 50)[1], 50);
  EXPECT_GT(Counts({1, 2, 1, 2, 2, 0}, {.temperature = 5, .top_k = 100}, 3000)[5], 100);
}

TEST_P(SampleTest, TopPKeepsTheSmallestSetThatReachesIt) {
  const std::vector<float> logits = LogitsOf({0.05, 0.5, 0.15, 0.3});
  const auto kept = [&](float top_p) {
    const std::vector<int> counts = Counts(logits, {.temperature = 1, .top_p = top_p}, 2000);
    std::vector<int> tokens;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0) tokens.push_back(static_cast<int>(i));
    }
    return tokens;
  };
  EXPECT_EQ(kept(0.01f), std::vector<int>({1}));
  EXPECT_EQ(kept(0.49f), std::vector<int>({1}));
  EXPECT_EQ(kept(0.79f), std::vector<int>({1, 3}));
  EXPECT_EQ(kept(0.81f), std::vector<int>({1, 2, 3}));
  EXPECT_EQ(kept(1), std::vector<int>({0, 1, 2, 3}));
  // Kept tokens keep their proportions.
  const std::vector<int> counts = Counts(logits, {.temperature = 1, .top_p = 0.79f}, 8000);
  EXPECT_NEAR(counts[1] / 8000.0, 0.5 / 0.8, 0.02);
}

// The rule of sample.h from temperature on, by sorting everything.
int32_t BySorting(const std::vector<float>& logits, const SampleRow& row) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](int32_t i) { return !std::isfinite(logits[i]); });
  if (order.empty()) return -1;
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (row.temperature == 0) return order[0];
  const float largest = logits[order[0]];
  const auto weight = [&](int32_t token) { return std::exp((double{logits[token]} - largest) / row.temperature); };
  const auto total = [&] {
    double sum = 0;
    for (int32_t token : order) sum += weight(token);
    return sum;
  };
  // The smallest front whose share reaches `share`.
  const auto cut = [&](double share) {
    const double reach = share * total();
    size_t kept = 0;
    double sum = 0;
    while (kept < order.size() && (kept == 0 || sum < reach)) sum += weight(order[kept++]);
    order.resize(kept);
  };
  if (row.min_p > 0) std::erase_if(order, [&](int32_t i) { return weight(i) < row.min_p; });
  if (row.top_k > 0 && row.top_k < static_cast<int32_t>(order.size())) order.resize(row.top_k);
  if (row.top_p < 1) cut(row.top_p);
  if (row.typical_p < 1) {
    const double all = total();
    double entropy = 0;
    for (int32_t i : order) entropy -= weight(i) / all * std::log(weight(i) / all);
    const auto distance = [&](int32_t i) { return std::abs(-std::log(weight(i) / all) - entropy); };
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return distance(a) < distance(b); });
    cut(row.typical_p);
    std::sort(order.begin(), order.end(),
              [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  }
  const double passes = SampleUniform(row.seed, row.index) * total();
  double running = 0;
  for (int32_t token : order) {
    running += weight(token);
    if (running > passes) return token;
  }
  return order.back();
}

TEST_P(SampleTest, AgreesWithSortingEverything) {
  int different = 0;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Random random(seed);
    std::vector<float> logits(random.Between(1, 300));
    for (float& logit : logits) logit = static_cast<float>(random.Below(40)) / 4;  // many ties
    const SampleRow row{random.Uniform(0.1f, 2), static_cast<int32_t>(random.Below(30)),
                        random.Below(2) == 0 ? 1 : random.Uniform(0.05f, 1), random.Next(), random.Next()};
    if (One(logits, row) != BySorting(logits, row)) ++different;
  }
  // Weights are F32 in one and F64 in the other: a draw next to a border may fall on either side.
  EXPECT_LE(different, 1);
}

// Rows of all shapes: long and short, flat and peaked, with ties and with values that are not finite.
std::vector<float> AnyLogits(Random& random) {
  std::vector<float> logits(random.Below(3) == 0 ? random.Between(1000, 6000) : random.Between(1, 300));
  const float spread = random.Uniform(0.01f, 30);
  const bool ties = random.Below(3) == 0;
  for (float& logit : logits) {
    logit = random.Uniform(-spread, spread);
    if (ties) logit = std::round(logit * 4) / 4;
    const int64_t odd = random.Below(50);
    if (odd == 0) logit = kNan;
    if (odd == 1) logit = -kInf;
    if (odd == 2) logit = kInf;
  }
  return logits;
}

// Bias, masks and counts for a row, whose spans point here.
struct RowDetail {
  std::vector<TokenBias> bias;
  std::vector<int32_t> masked;
  std::vector<uint32_t> allowed;
  std::vector<SeenToken> seen;
};

SampleRow AnyRow(int64_t vocab, Random& random, RowDetail* detail) {
  const auto some = [&] { return random.Below(2) == 0; };
  SampleRow row{some() ? random.Uniform(0.05f, 3) : 1, some() ? static_cast<int32_t>(random.Between(1, 80)) : 0,
                some() ? random.Uniform(0.05f, 1) : 1, random.Next(), random.Next()};
  if (random.Below(4) == 0) row.temperature = 0;
  if (random.Below(3) == 0) row.min_p = random.Uniform(0.001f, 0.5f);
  if (random.Below(3) == 0) row.typical_p = random.Uniform(0.1f, 0.99f);
  if (some()) row.repetition_penalty = random.Uniform(0.5f, 2);
  if (some()) row.presence_penalty = random.Uniform(-2, 2);
  if (some()) row.frequency_penalty = random.Uniform(-2, 2);
  row.logprobs = static_cast<int32_t>(random.Below(22)) - 1;
  const auto token = [&] { return static_cast<int32_t>(random.Below(vocab)); };
  for (int64_t n = random.Below(4); n > 0; --n) detail->bias.push_back({token(), random.Uniform(-100, 100)});
  for (int64_t n = random.Below(4); n > 0; --n) detail->masked.push_back(token());
  std::vector<bool> known(vocab);
  for (int64_t n = random.Below(40); n > 0; --n) {
    const int32_t t = token();
    if (!known[t]) detail->seen.push_back({t, static_cast<int32_t>(random.Below(4))});
    known[t] = true;
  }
  if (some()) {
    const int64_t rarity = random.Between(1, 40);  // a token in so many is allowed
    detail->allowed.assign((vocab + 31) / 32, 0);
    for (int64_t t = 0; t < vocab; ++t) {
      if (random.Below(rarity) == 0) detail->allowed[t / 32] |= uint32_t{1} << (t % 32);
    }
    if (random.Below(8) == 0) std::fill(detail->allowed.begin(), detail->allowed.end(), ~uint32_t{0});
  }
  row.allowed = detail->allowed;
  row.bias = detail->bias;
  row.masked = detail->masked;
  row.seen = detail->seen;
  return row;
}

// Steps 1 to 3 of sample.h.
std::vector<float> Edited(std::vector<float> logits, const SampleRow& row) {
  for (const TokenBias& b : row.bias) logits[b.token] += b.bias;
  for (int32_t token : row.masked) logits[token] = -kInf;
  for (const SeenToken& s : row.seen) {
    float& x = logits[s.token];
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
    x -= row.frequency_penalty * static_cast<float>(s.in_output);
    if (s.in_output > 0) x -= row.presence_penalty;
  }
  for (size_t t = 0; t < logits.size() && !row.allowed.empty(); ++t) {
    if ((row.allowed[t / 32] >> (t % 32) & 1) == 0) logits[t] = -kInf;
  }
  return logits;
}

TEST_P(SampleTest, EveryStepAgreesWithAPlainOracle) {
  constexpr int kRounds = 3000;
  int different = 0;
  for (int round = 0; round < kRounds; ++round) {
    Random random(round);
    const std::vector<float> logits = AnyLogits(random);
    RowDetail detail;
    const SampleRow row = AnyRow(static_cast<int64_t>(logits.size()), random, &detail);
    std::vector<float> worked_in = logits;
    std::vector<TokenLogprob> logprobs(22, {-7, 0});
    int32_t token = -7;
    ops().sample({absl::MakeSpan(&token, 1),
                  {worked_in.data(), DType::kF32, 1, static_cast<int64_t>(logits.size())},
                  absl::MakeConstSpan(&row, 1),
                  absl::MakeSpan(logprobs),
                  22},
                 one_);
    ASSERT_TRUE(SameBits(worked_in, logits)) << "round " << round;
    const std::vector<float> edited = Edited(logits, row);
    const int32_t want = BySorting(edited, row);
    if (row.temperature == 0 || want < 0 || token < 0) {
      ASSERT_EQ(token, want) << "round " << round;
    } else {
      ASSERT_TRUE(std::isfinite(edited[token])) << "round " << round;
      different += token != want ? 1 : 0;
    }
    if (token < 0 || row.logprobs < 0) continue;
    // log softmax in F64 over what is finite.
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::erase_if(order, [&](int32_t i) { return !std::isfinite(logits[i]); });
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    double total = 0;
    for (int32_t i : order) total += std::exp(double{logits[i]} - logits[order[0]]);
    const auto logprob = [&](int32_t i) { return double{logits[i]} - logits[order[0]] - std::log(total); };
    EXPECT_EQ(logprobs[0].token, token);
    EXPECT_NEAR(logprobs[0].logprob, logprob(token), 1e-5);
    for (int32_t k = 0; k < row.logprobs; ++k) {
      const bool there = k < static_cast<int32_t>(order.size());
      ASSERT_EQ(logprobs[1 + k].token, there ? order[k] : -1) << "round " << round;
      if (there) {
        EXPECT_NEAR(logprobs[1 + k].logprob, logprob(order[k]), 1e-5);
      }
    }
    if (row.logprobs < 21) {
      EXPECT_EQ(logprobs[1 + row.logprobs].token, -7) << "written beyond";
    }
  }
  EXPECT_LE(different, kRounds / 500);  // draws and cuts next to a border, see above
}

TEST_P(SampleTest, VariantsComputeTheSameBits) {
  for (int round = 0; round < 1500; ++round) {
    Random random(10000 + round);
    std::vector<float> logits = AnyLogits(random);
    RowDetail detail;
    const SampleRow row = AnyRow(static_cast<int64_t>(logits.size()), random, &detail);
    std::vector<TokenLogprob> logprobs[2];
    int32_t tokens[2];
    for (int i = 0; i < 2; ++i) {
      logprobs[i].resize(22);
      (i == 0 ? ops() : reference())
          .sample({absl::MakeSpan(&tokens[i], 1),
                   {logits.data(), DType::kF32, 1, static_cast<int64_t>(logits.size())},
                   absl::MakeConstSpan(&row, 1),
                   absl::MakeSpan(logprobs[i]),
                   22},
                  one_);
    }
    ASSERT_EQ(tokens[0], tokens[1]) << "round " << round;
    ASSERT_EQ(logprobs[0], logprobs[1]) << "round " << round;
  }
}

TEST(SampleWeightTest, IsTheExponential) {
  EXPECT_EQ(SampleWeight(3, 3, 0.5f), 1);
  EXPECT_EQ(SampleWeight(-0.0f, 0, 1e-38f), 1);
  EXPECT_EQ(SampleWeight(-1e38f, 3e38f, 1), 0);
  EXPECT_EQ(SampleWeight(-87, 0, 1), 0);
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const float x = random.Uniform(-86, 0);
    const double want = std::exp(double{x});
    ASSERT_NEAR(SampleWeight(x, 0, 1), want, want * 2e-7) << x;
  }
}

TEST_P(SampleTest, ARowDoesNotDependOnItsNeighbours) {
  Random random(5);
  std::vector<float> logits = random.Floats(3 * 100, 3);
  std::vector<SampleRow> rows(3, {.temperature = 1});
  for (size_t i = 0; i < rows.size(); ++i) rows[i].seed = i;
  std::vector<int32_t> tokens(3);
  ops().sample({absl::MakeSpan(tokens), {logits.data(), DType::kF32, 3, 100}, rows}, two_);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(One({logits.begin() + i * 100, logits.begin() + (i + 1) * 100}, rows[i]), tokens[i]);
  }
}

INTERLACE_OP_TEST(SampleTest);

}  // namespace
}  // namespace interlace
