// How the layers of a model are divided over pipeline stages.
#include "model/shard_spec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "model/weights.h"
#include "tests/kernels/random_tensor.h"
#include "tests/model/tiny_checkpoints.h"
#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

TokenCost Uniform(int32_t layers, int64_t layer, int64_t head) {
  return {std::vector<int64_t>(static_cast<size_t>(layers), layer), head};
}

std::vector<int32_t> LayersOf(const TokenCost& cost, int32_t stages) {
  std::vector<int32_t> layers;
  for (int32_t s = 0; s < stages; ++s) layers.push_back(MakeShard(cost, s, stages).layers());
  return layers;
}

int64_t CostOf(const TokenCost& cost, const std::vector<int32_t>& layers, size_t stage) {
  int64_t sum = stage + 1 == layers.size() ? cost.head : 0;
  int32_t begin = 0;
  for (size_t s = 0; s < stage; ++s) begin += layers[s];
  for (int32_t l = begin; l < begin + layers[stage]; ++l) sum += cost.layers[l];
  return sum;
}

int64_t Dearest(const TokenCost& cost, const std::vector<int32_t>& layers) {
  int64_t most = 0;
  for (size_t s = 0; s < layers.size(); ++s) most = std::max(most, CostOf(cost, layers, s));
  return most;
}

// Of all splits, by trying each.
int64_t LeastDearest(const TokenCost& cost, std::vector<int32_t>& layers, int32_t left, int32_t stages) {
  if (stages == 1) {
    layers.push_back(left);
    const int64_t dearest = Dearest(cost, layers);
    layers.pop_back();
    return dearest;
  }
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int32_t take = 1; take <= left - stages + 1; ++take) {
    layers.push_back(take);
    least = std::min(least, LeastDearest(cost, layers, left - take, stages - 1));
    layers.pop_back();
  }
  return least;
}

TEST(ShardSpecTest, LayersAloneAreSplitEvenlyEarlierStagesLarger) {
  for (int32_t layers = 1; layers <= 40; ++layers) {
    for (int32_t stages = 1; stages <= layers; ++stages) {
      int32_t next = 0, before = layers;
      for (int32_t s = 0; s < stages; ++s) {
        const ShardSpec shard = MakeShard(Uniform(layers, 1000, 0), s, stages);
        EXPECT_EQ(shard.layer_begin, next);
        EXPECT_GE(shard.layers(), layers / stages);
        EXPECT_LE(shard.layers(), before);
        EXPECT_LE(shard.layers(), layers / stages + 1);
        EXPECT_EQ(shard.first(), s == 0);
        EXPECT_EQ(shard.last(), s == stages - 1);
        next = shard.layer_end;
        before = shard.layers();
      }
      EXPECT_EQ(next, layers);
    }
  }
}

TEST(ShardSpecTest, ASmallHeadChangesNothing) {
  EXPECT_EQ(LayersOf(Uniform(32, 1000, 400), 2), (std::vector<int32_t>{16, 16}));
  EXPECT_EQ(LayersOf(Uniform(32, 1000, 400), 4), (std::vector<int32_t>{8, 8, 8, 8}));
}

TEST(ShardSpecTest, TheLastStageHasFewerLayersBecauseOfTheHead) {
  // SmolLM2 135M in Q4_1 with a head in Q8_0: a head is 13.6 layers.
  const TokenCost smol = Uniform(30, 2'216'448, 30'081'024);
  EXPECT_EQ(LayersOf(smol, 1), (std::vector<int32_t>{30}));
  EXPECT_EQ(LayersOf(smol, 2), (std::vector<int32_t>{22, 8}));
  EXPECT_EQ(LayersOf(smol, 3), (std::vector<int32_t>{15, 14, 1}));
}

TEST(ShardSpecTest, AHeadThatIsDearerThanAllLayersLeavesItsStageOneLayer) {
  // Gemma 3 270M: 262144 rows of 640 beside 18 layers of 5.6 M weights. What is left is split evenly all the same.
  const TokenCost gemma = Uniform(18, 5'600'000, 262'144 * 640);
  EXPECT_EQ(LayersOf(gemma, 2), (std::vector<int32_t>{17, 1}));
  EXPECT_EQ(LayersOf(gemma, 3), (std::vector<int32_t>{9, 8, 1}));
  EXPECT_EQ(LayersOf(gemma, 18), std::vector<int32_t>(18, 1));
}

TEST(ShardSpecTest, NoSplitHasACheaperDearestStage) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Random random(seed);
    TokenCost cost;
    const auto count = static_cast<int32_t>(random.Between(1, 12));
    for (int32_t l = 0; l < count; ++l) cost.layers.push_back(random.Below(4) == 0 ? 0 : random.Between(1, 1000));
    cost.head = random.Below(2) == 0 ? 0 : random.Between(1, 6000);
    const auto stages = static_cast<int32_t>(random.Between(1, std::min(count, 5)));
    const std::vector<int32_t> layers = LayersOf(cost, stages);
    int32_t next = 0;
    for (int32_t s = 0; s < stages; ++s) {
      const ShardSpec shard = MakeShard(cost, s, stages);
      ASSERT_EQ(shard.layer_begin, next) << "seed " << seed;
      ASSERT_GE(shard.layers(), 1) << "seed " << seed;
      next = shard.layer_end;
    }
    ASSERT_EQ(next, count) << "seed " << seed;
    std::vector<int32_t> tried;
    ASSERT_EQ(Dearest(cost, layers), LeastDearest(cost, tried, count, stages)) << "seed " << seed;
  }
}

TEST(ShardSpecTest, CostsOfTokensBeyondTwoToThe53DoNotOverflow) {
  EXPECT_EQ(LayersOf(Uniform(4, int64_t{1} << 60, 0), 2), (std::vector<int32_t>{2, 2}));
}

// Each tensor of a layer, and the head wherever it is.
TEST(ShardSpecTest, ATokenCostsTheBytesThatItReads) {
  for (const bool tied : {false, true}) {
    const std::string bytes = TinyGgufBytes({.layers = 3, .tied_head = tied});
    const auto file =
        GgufFile::Parse(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()), "tiny");
    ASSERT_OK(file);
    const auto checkpoint = Checkpoint::Of(**file);
    ASSERT_OK(checkpoint);
    const TokenCost cost = CostOfToken(**checkpoint);
    int64_t all = cost.head, read = 0;
    for (const int64_t layer : cost.layers) {
      EXPECT_GT(layer, 0);
      all += layer;
    }
    for (const auto& [name, tensor] : (*checkpoint)->tensors()) {
      if (name == "output_norm.weight" || (name == "token_embd.weight" && !tied)) continue;
      read += static_cast<int64_t>(tensor.data.size());
    }
    EXPECT_EQ(all, read);
    EXPECT_EQ(cost.head, static_cast<int64_t>(
                             (*checkpoint)->tensors().at(tied ? "token_embd.weight" : "output.weight").data.size()));
  }
}

TEST(ShardSpecTest, OfTheExpertsOnlySoManyCostAsRun) {
  for (const TinyCheckpoint& tiny : kTinyCheckpoints) {
    const auto checkpoint = Checkpoint::Open(tiny.Gguf());
    ASSERT_OK(checkpoint);
    const ModelSpec& spec = (*checkpoint)->spec();
    const bool routed = spec.layer.at(0).experts;
    int64_t others = 0, of_experts = 0;
    for (const auto& [name, tensor] : (*checkpoint)->tensors()) {
      if (name.rfind("blk.0.", 0) != 0) continue;
      const bool expert = routed && std::count(name.begin(), name.end(), '.') == 4;
      (expert ? of_experts : others) += static_cast<int64_t>(tensor.data.size());
    }
    EXPECT_EQ(of_experts > 0, routed) << tiny.name;
    const int64_t run = routed ? of_experts / spec.experts.count * spec.experts.top_k : 0;
    EXPECT_EQ(CostOfToken(**checkpoint).layers.at(0), others + run) << tiny.name;
  }
}

}  // namespace
}  // namespace interlace
