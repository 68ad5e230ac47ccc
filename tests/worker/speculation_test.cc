// Guesses change no token: the verifier's distribution, constraints, and a real model under any plan.

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/test_model.h"
#include "tests/worker/plan_maker.h"
#include "worker/rank.h"
#include "worker/sampler.h"

namespace interlace {
namespace {

// ---- the verifier ----

constexpr int32_t kWords = 5;

// What a model of `kWords` tokens says after each of them.
using Rows = std::vector<std::vector<float>>;

Rows RandomRows(Random& random) {
  Rows rows(kWords);
  for (std::vector<float>& row : rows) row = random.Floats(kWords, 1.5f);
  return rows;
}

// What a drafter says that orders tokens as the model does, less surely.
Rows Flatter(const Rows& model) {
  Rows rows = model;
  for (std::vector<float>& row : rows) {
    for (float& logit : row) logit *= 0.6f;
  }
  return rows;
}

std::vector<double> Softmax(const std::vector<float>& logits) {
  std::vector<double> p(logits.size());
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(logits[i]);
  for (double& value : p) value /= sum;
  return p;
}

// Streams of three tokens over many seeds: the drafter guesses two, and the verifier, which has a row after each of
// them, takes what is right. What comes out follows the model alone, also where a guess was taken; how often one is
// taken lies between what chance would give and the overlap of both distributions, the most that any verifier can.
TEST(SpeculationVerifierTest, StreamsFollowTheModelWhateverIsGuessed) {
  constexpr int64_t kDraws = 1'000'000, kBatch = 500;
  const std::unique_ptr<Backend> backend = *CreateBackend("cpu", {"auto", 1});
  Sampler sampler(*backend, kWords);
  Random random(4);
  const Rows model = RandomRows(random), drafter = Flatter(model);
  std::vector<Sampling> samplings(kBatch, Sampling{.temperature = 1});
  std::vector<int32_t> before(1, 0);
  // The tokens that rows of `of` give after `last`, with the chance numbers of output token `index`.
  const auto draw = [&](const Rows& of, const std::vector<int32_t>& last, int32_t index) {
    std::vector<float> logits;
    std::vector<SampleAsk> asks;
    const std::vector<int32_t> tokens(static_cast<size_t>(index) + 1, 0);
    for (size_t i = 0; i < last.size(); ++i) {
      logits.insert(logits.end(), of[last[i]].begin(), of[last[i]].end());
      asks.push_back({RequestId{i + 1}, 1, index, &samplings[i], tokens});
    }
    std::vector<int32_t> out;
    const Tensor rows{logits.data(), DType::kF32, static_cast<int64_t>(last.size()), kWords};
    for (const SampledToken& t : sampler.Sample(asks, rows)) out.push_back(t.token);
    return out;
  };
  std::map<std::pair<int32_t, int32_t>, int64_t> pairs, taken;
  int64_t accepted = 0;
  for (int64_t done = 0; done < kDraws; done += kBatch) {
    for (int64_t i = 0; i < kBatch; ++i) samplings[i].seed = static_cast<uint64_t>(done + i);
    const std::vector<int32_t> start(kBatch, 0);
    const std::vector<int32_t> guessed = draw(drafter, start, 0);
    const std::vector<int32_t> first = draw(model, start, 0);
    const std::vector<int32_t> behind = draw(model, guessed, 1);  // the verifier's row after the guess
    const std::vector<int32_t> again = draw(model, first, 1);     // of the step after, where the guess was wrong
    for (int64_t i = 0; i < kBatch; ++i) {
      const bool right = guessed[i] == first[i];
      accepted += right ? 1 : 0;
      ++pairs[{first[i], right ? behind[i] : again[i]}];
      if (right) ++taken[{first[i], behind[i]}];
    }
  }
  const std::vector<double> p = Softmax(model[0]), q = Softmax(drafter[0]);
  double chi_square = 0, overlap = 0, by_chance = 0;
  for (int32_t a = 0; a < kWords; ++a) {
    const std::vector<double> next = Softmax(model[a]);
    overlap += std::min(p[a], q[a]);
    by_chance += p[a] * q[a];
    int64_t of_a = 0;
    for (int32_t b = 0; b < kWords; ++b) of_a += taken[{a, b}];
    ASSERT_GT(of_a, 100) << "too few guesses of " << a << " are right to see what follows";
    double of_taken = 0;
    for (int32_t b = 0; b < kWords; ++b) {
      const double expected = p[a] * next[b] * kDraws;
      const double off = static_cast<double>(pairs[{a, b}]) - expected;
      chi_square += off * off / expected;
      const double expected_taken = next[b] * static_cast<double>(of_a);
      const double off_taken = static_cast<double>(taken[{a, b}]) - expected_taken;
      of_taken += off_taken * off_taken / expected_taken;
    }
    EXPECT_LT(of_taken, 18.5) << "99.9% of 4 degrees of freedom, behind a guess of " << a;
  }
  EXPECT_LT(chi_square, 51.2) << "99.9% of 24 degrees of freedom";
  const double rate = static_cast<double>(accepted) / kDraws;
  EXPECT_GT(rate, by_chance);
  EXPECT_LT(rate, overlap + 0.002);
}

// ---- a real model ----

struct World {
  explicit World(int64_t device_bytes = int64_t{64} << 20) {
    Config config;
    config.model.path = TestModelPath();
    config.engine.threads = 2;
    config.kv.block_tokens = 16;
    config.kv.dtype = "bf16";
    config.kv.device_bytes.value = device_bytes;
    config.kv.host_bytes.value = int64_t{64} << 20;
    config.kv.tiers = "";
    config.sched.step_tokens = 256;
    rank = *Rank::Create(config, 1, clock, faults, nullptr, [](int64_t, int64_t) {});
    maker = std::make_unique<PlanMaker>(rank->runner(), rank->info());
  }
  RealClock clock;
  FaultPoints faults;
  std::unique_ptr<Rank> rank;
  std::unique_ptr<PlanMaker> maker;
};

// Plans at random, whole halves of the model, all that may be passed over, nothing; greedy and sampled streams.
TEST(SpeculationRealTest, AnyPlanGivesTheSameStreams) {
  constexpr int32_t kOutputs = 14, kLayers = 30;
  Random random(6);
  std::vector<MakerRequest> requests(4);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt.resize(20 + 9 * i);
    for (int32_t& token : requests[i].prompt) token = static_cast<int32_t>(random.Below(49152));
    requests[i].sampling.seed = random.Next();
    requests[i].sampling.temperature = i % 2 == 0 ? 0 : 0.8f;
  }
  const auto layers = [&](int64_t of_eight) {
    LayerSet set;
    for (int32_t l = 0; l < kLayers; ++l) {
      if (random.Below(8) < of_eight) set.Add(LayerId{l});
    }
    return set;
  };
  const std::vector<std::vector<int32_t>> want = World().maker->Run(requests, kOutputs, {});
  const LayerSet all = LayerSet::Range(0, kLayers), upper = LayerSet::Range(kLayers / 2, kLayers);
  const std::vector<std::function<SkipPlan()>> plans = {
      [&] {
        return SkipPlan{layers(random.Below(9)), layers(random.Below(9))};
      },
      [&] {
        return SkipPlan{upper, upper};
      },
      [&] {
        return SkipPlan{all, all};
      },
      [&] { return SkipPlan::Evenly(10, kLayers); }};
  int64_t accepted = 0;
  for (const LayerSet& kept : {all, LayerSet::Interleaved(15, kLayers)}) {
    World world;
    for (const auto& plan : plans) {
      MakerOptions options{.kept = kept, .chunk = 32, .drafts = 3};
      options.skip = plan;
      ASSERT_EQ(world.maker->Run(requests, kOutputs, options), want) << kept.ToString();
    }
    accepted += world.maker->accepted_drafts();
  }
  EXPECT_GT(accepted, 0) << "no guess was right: this shows little";
}

TEST(SkipPlanTest, EvenlySpreadPlansSpareTheEnds) {
  for (int32_t layers : {2, 3, 18, 30}) {
    for (int32_t count = 0; count <= 2 * (layers - 2); ++count) {
      const SkipPlan plan = SkipPlan::Evenly(count, layers);
      EXPECT_EQ(plan.Passed(layers), count);
      EXPECT_EQ(plan.attention.size() + plan.feed_forward.size(), count);
      for (const int32_t l : {0, layers - 1}) {
        EXPECT_TRUE(plan.RunsAttention(LayerId{l}, layers));
        EXPECT_TRUE(plan.RunsFeedForward(LayerId{l}, layers));
      }
    }
  }
  const SkipPlan everything{LayerSet::Range(0, 4), LayerSet::Range(0, 4)};
  EXPECT_EQ(everything.Passed(4), 4);
}

}  // namespace
}  // namespace interlace
