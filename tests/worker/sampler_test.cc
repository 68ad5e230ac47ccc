// The rank's sampler against transformers' logits processors (tests/golden/make_sampling_reference.py), and what it
// makes of a sequence's tokens.
#include "worker/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "tests/kernels/random_tensor.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using Json = nlohmann::json;

struct Case {
  std::vector<float> logits;
  std::vector<int32_t> prompt, output;
  Sampling sampling;
  int32_t greedy = -1;
  std::vector<std::pair<int32_t, double>> shares;  // of what stays, largest logit first
  std::vector<double> logprobs;
};

std::vector<Case> ReadCases() {
  std::ifstream file("tests/golden/sampling/cases.json");
  EXPECT_TRUE(file.good());
  std::vector<Case> cases;
  for (const Json& j : Json::parse(file)) {
    Case& c = cases.emplace_back();
    c.logits = j["logits"].get<std::vector<float>>();
    c.prompt = j["prompt"].get<std::vector<int32_t>>();
    c.output = j["output"].get<std::vector<int32_t>>();
    const Json& s = j["settings"];
    c.sampling = {s["temperature"], s["top_k"], s["top_p"], 0, s["min_p"], s["typical_p"]};
    c.sampling.repetition_penalty = s["repetition_penalty"];
    c.sampling.presence_penalty = s["presence_penalty"];
    c.sampling.frequency_penalty = s["frequency_penalty"];
    for (const auto& [token, bias] : s["logit_bias"].items()) c.sampling.logit_bias.push_back({std::stoi(token), bias});
    c.sampling.bad_words = s["bad_words"].get<std::vector<std::vector<int32_t>>>();
    c.sampling.min_tokens = s["min_tokens"];
    c.sampling.end_tokens = s["end_tokens"].get<std::vector<int32_t>>();
    c.sampling.logprobs = 4;
    c.greedy = j["greedy"];
    for (const auto& [token, share] : j["shares"].items()) c.shares.emplace_back(std::stoi(token), share);
    std::sort(c.shares.begin(), c.shares.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    c.logprobs = j["logprobs"].get<std::vector<double>>();
  }
  return cases;
}

class SamplerTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto backend = CreateBackend("cpu", {.ops = GetParam(), .threads = 2});
    if (!backend.ok()) GTEST_SKIP() << backend.status().ToString();
    backend_ = *std::move(backend);
  }
  // All of `cases` as sequences of one step.
  std::vector<SampledToken> Sample(const std::vector<Case>& cases) {
    const auto vocab = static_cast<int32_t>(cases[0].logits.size());
    Sampler sampler(*backend_, vocab);
    std::vector<SampleAsk> asks(cases.size());
    std::vector<std::vector<int32_t>> all(cases.size());
    std::vector<float> logits;
    for (size_t i = 0; i < cases.size(); ++i) {
      all[i] = cases[i].prompt;
      all[i].insert(all[i].end(), cases[i].output.begin(), cases[i].output.end());
      asks[i] = {RequestId{i}, 1, static_cast<int32_t>(cases[i].output.size()), &cases[i].sampling, all[i]};
      logits.insert(logits.end(), cases[i].logits.begin(), cases[i].logits.end());
    }
    const Tensor tensor{logits.data(), DType::kF32, static_cast<int64_t>(cases.size()), vocab};
    return sampler.Sample(asks, tensor);
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(SamplerTest, AgreesWithTransformers) {
  std::vector<Case> cases = ReadCases();
  ASSERT_EQ(cases.size(), 100u);
  int draws = 0, beside_borders = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    for (Case& c : cases) c.sampling.seed = seed;
    const std::vector<SampledToken> sampled = Sample(cases);
    ASSERT_EQ(sampled.size(), cases.size());
    for (size_t i = 0; i < cases.size(); ++i) {
      const Case& c = cases[i];
      const double u = SampleUniform(seed, c.output.size());
      double sum = 0, nearest = 1;
      int32_t want = -1;
      for (const auto& [token, share] : c.shares) {
        sum += share;
        nearest = std::min(nearest, std::abs(sum - u));
        if (want < 0 && sum > u) want = token;
      }
      if (nearest < 1e-5) {
        ++beside_borders;
        continue;
      }
      ++draws;
      ASSERT_EQ(sampled[i].token, want) << "case " << i << " seed " << seed << " u " << u;
    }
  }
  EXPECT_GT(draws, 5500);
  EXPECT_LT(beside_borders, 50);
}

TEST_P(SamplerTest, GreedyAgreesWithTransformersAndLogprobsAreTheModels) {
  std::vector<Case> cases = ReadCases();
  for (Case& c : cases) c.sampling.temperature = 0;
  const std::vector<SampledToken> sampled = Sample(cases);
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    ASSERT_EQ(sampled[i].token, c.greedy) << "case " << i;
    ASSERT_EQ(sampled[i].scores.size(), 5u);
    EXPECT_EQ(sampled[i].scores[0].token, sampled[i].token);
    std::vector<double> sorted = c.logprobs;
    std::sort(sorted.rbegin(), sorted.rend());
    for (size_t k = 0; k < 5; ++k) {
      const TokenScore& score = sampled[i].scores[k];
      EXPECT_NEAR(score.logprob, c.logprobs[score.token], 2e-6) << "case " << i;
      if (k > 0) {
        EXPECT_NEAR(score.logprob, sorted[k - 1], 2e-6) << "case " << i;
      }
    }
  }
}

Case Flat(std::vector<int32_t> prompt, std::vector<int32_t> output) {
  return {std::vector<float>{5, 4, 3, 2, 1, 0}, std::move(prompt), std::move(output), {}, -1, {}, {}};
}

TEST_P(SamplerTest, MinTokensMasksEndTokensUntilItIsReached) {
  for (int32_t have = 0; have < 5; ++have) {
    Case c = Flat({3}, std::vector<int32_t>(have, 4));
    c.sampling.min_tokens = 3;
    c.sampling.end_tokens = {0, 1};
    EXPECT_EQ(Sample({c})[0].token, have < 3 ? 2 : 0) << have;
  }
}

TEST_P(SamplerTest, ABadWordIsMaskedWhereTheOutputEndsWithItsBeginning) {
  const auto chosen = [&](std::vector<int32_t> prompt, std::vector<int32_t> output) {
    Case c = Flat(std::move(prompt), std::move(output));
    c.sampling.bad_words = {{3, 4, 0}};
    return Sample({c})[0].token;
  };
  EXPECT_EQ(chosen({1}, {3, 4}), 1);
  EXPECT_EQ(chosen({1}, {5, 3, 4}), 1);
  EXPECT_EQ(chosen({1}, {3, 4, 5}), 0);
  EXPECT_EQ(chosen({1}, {4}), 0);
  EXPECT_EQ(chosen({3}, {4}), 0);  // half of it in the prompt
  EXPECT_EQ(chosen({3, 4}, {}), 0);
}

TEST_P(SamplerTest, PenaltiesLookAtTheTokensTheyAreFor) {
  Case c = Flat({0}, {1, 1, 1});
  c.sampling.repetition_penalty = 2;  // 2.5, 2, 3, ...
  EXPECT_EQ(Sample({c})[0].token, 2);
  c.sampling.repetition_penalty = 1;
  c.sampling.presence_penalty = 2;  // 5, 2, 3: the prompt does not count
  EXPECT_EQ(Sample({c})[0].token, 0);
  c = Flat({2}, {0, 1});
  c.sampling.frequency_penalty = 1.5f;  // 3.5, 2.5, 3
  EXPECT_EQ(Sample({c})[0].token, 0);
  c.output = {0, 0, 1};  // 2, 2.5, 3
  EXPECT_EQ(Sample({c})[0].token, 2);
}

TEST_P(SamplerTest, ARowWithoutAFiniteLogitHasNoTokenAndNoScores) {
  Case c = Flat({1}, {});
  c.sampling.logprobs = 2;
  for (int32_t i = 0; i < 6; ++i) c.sampling.bad_words.push_back({i});
  const SampledToken masked = Sample({c})[0];
  EXPECT_EQ(masked.token, -1);
  EXPECT_TRUE(masked.scores.empty());
  c.sampling.bad_words.clear();
  c.logits.assign(6, std::nanf(""));
  EXPECT_EQ(Sample({c})[0].token, -1);
}

INSTANTIATE_TEST_SUITE_P(Tables, SamplerTest, testing::Values("reference", "avx2"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace interlace
