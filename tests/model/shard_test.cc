// Tensor-parallel arithmetic: every part has one owner, and parts of products add up.
#include <cmath>

#include "kernels/modular/modular.h"
#include "model/decoder.h"
#include "tests/kernels/random_tensor.h"
#include "tests/model/plain_engine.h"
#include "tests/model/tiny_checkpoints.h"
#include "tests/model/tiny_gguf.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(SplitEvenlyTest, CoversEverythingOnceInRunsOfTheUnit) {
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    Random random(seed);
    const int64_t count = random.Between(0, 5000), unit = random.Between(1, 300);
    const auto ranks = static_cast<int32_t>(random.Between(1, 9));
    int64_t next = 0, largest = 0, smallest = count;
    for (int32_t r = 0; r < ranks; ++r) {
      const ShardRange range = SplitEvenly(count, unit, r, ranks);
      EXPECT_EQ(range.begin, next);
      EXPECT_TRUE(range.begin % unit == 0 || range.begin == count);
      EXPECT_GE(range.size(), 0);
      largest = std::max(largest, range.size());
      smallest = std::min(smallest, range.size());
      next = range.end;
    }
    EXPECT_EQ(next, count) << "seed " << seed;
    EXPECT_LE(largest - smallest, 2 * unit) << "seed " << seed;
  }
}

TEST(SplitTensorsTest, EveryHeadRowAndExpertHasOneOwner) {
  int splits = 0;
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    Random random(seed);
    ModelSpec spec;
    spec.kv_heads = static_cast<int32_t>(random.Between(1, 12));
    spec.heads = spec.kv_heads * static_cast<int32_t>(random.Between(1, 8));
    spec.feed_forward = static_cast<int32_t>(random.Between(1, 40)) * (random.Below(2) ? 256 : 7);
    spec.vocab = static_cast<int32_t>(random.Between(8, 5000));
    if (random.Below(2)) spec.experts = {.count = static_cast<int32_t>(random.Between(1, 64)), .top_k = 1};
    const auto ranks = static_cast<int32_t>(random.Between(1, 16));
    if (!SplitTensors(spec, 0, ranks).ok()) continue;
    ++splits;
    std::vector<int> heads(spec.heads), rows(spec.feed_forward), vocab(spec.vocab), experts(spec.experts.count),
        kv_heads(spec.kv_heads);
    for (int32_t r = 0; r < ranks; ++r) {
      const auto split = SplitTensors(spec, r, ranks);
      ASSERT_OK(split);
      const auto own = [](std::vector<int>& owners, ShardRange range) {
        for (int64_t i = range.begin; i < range.end; ++i) ++owners[i];
      };
      own(heads, split->heads);
      own(rows, split->feed_forward);
      own(vocab, split->vocab);
      own(experts, split->experts);
      own(kv_heads, split->kv_heads);
      EXPECT_GT(split->heads.size(), 0);
      EXPECT_GT(split->feed_forward.size(), 0);
      const int32_t group = spec.heads / spec.kv_heads;
      // Local head h reads local KV head h / (local heads / local KV heads): the same one as in the whole model.
      ASSERT_EQ(split->heads.size() % split->kv_heads.size(), 0) << "seed " << seed;
      const int64_t local_group = split->heads.size() / split->kv_heads.size();
      for (int64_t h = 0; h < split->heads.size(); ++h) {
        EXPECT_EQ(split->kv_heads.begin + h / local_group, (split->heads.begin + h) / group) << "seed " << seed;
      }
      if (spec.feed_forward % 256 == 0 && spec.feed_forward / 256 >= ranks) {
        EXPECT_EQ(split->feed_forward.begin % 256, 0);
      }
    }
    const auto once = [](const std::vector<int>& owners) {
      return std::all_of(owners.begin(), owners.end(), [](int n) { return n == 1; });
    };
    EXPECT_TRUE(once(heads) && once(rows) && once(vocab) && once(experts)) << "seed " << seed;
    // A KV head is held by as many ranks as share its query heads.
    for (int owners : kv_heads) EXPECT_EQ(owners, std::max(1, ranks / spec.kv_heads)) << "seed " << seed;
  }
  EXPECT_GT(splits, 200);
}

TEST(SplitTensorsTest, WhatCannotBeSplitIsNamed) {
  ModelSpec spec;
  spec.heads = 9, spec.kv_heads = 3, spec.feed_forward = 1536, spec.vocab = 49152;
  EXPECT_OK(SplitTensors(spec, 2, 3));
  EXPECT_OK(SplitTensors(spec, 8, 9));
  EXPECT_THAT(SplitTensors(spec, 0, 2), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("9 heads")));
  spec.heads = 12;
  EXPECT_THAT(SplitTensors(spec, 0, 4), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("3 KV heads")));
  spec.kv_heads = 4, spec.feed_forward = 3;
  EXPECT_THAT(SplitTensors(spec, 0, 4), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("feed_forward")));
  spec.feed_forward = 256, spec.experts.count = 2;
  EXPECT_THAT(SplitTensors(spec, 0, 4), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 experts")));
}

// One layer's parts, of one of `ranks`, with a cache of its own.
struct Part {
  Part(const Checkpoint& checkpoint, Backend& backend, int32_t rank, int32_t ranks) {
    ShardSpec shard = MakeShard(CostOfStep(checkpoint, 0), 0, 1);
    shard.tensor_rank = rank;
    shard.tensor_ranks = ranks;
    decoder = *Decoder::Create({.checkpoint = &checkpoint,
                                .spec = &checkpoint.spec(),
                                .shard = shard,
                                .backend = &backend,
                                .max_tokens = 64,
                                .progress = [](int64_t, int64_t) {}});
    // The rest of the model's tensors must be asked for too.
    for (int32_t l = 0; l < checkpoint.spec().layers; ++l) {
      decoder->WantAttention(l, &attention[l]);
      for (const char* norm : {"attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"}) {
        if (checkpoint.tensors().count(absl::StrCat("blk.", l, ".", norm, ".weight")) > 0) {
          decoder->WantNorm(l, norm, &norm_weights[absl::StrCat(l, norm)]);
        }
      }
      if (checkpoint.spec().layer[l].experts) {
        decoder->WantExperts(l, &experts[l]);
      } else {
        decoder->WantFfn(l, &ffn[l]);
      }
    }
    status = decoder->Load([](int64_t, int64_t) {});
    local = checkpoint.spec();
    local.heads = static_cast<int32_t>(decoder->split().heads.size());
    local.kv_heads = static_cast<int32_t>(decoder->split().kv_heads.size());
    kv = std::make_unique<PlainKv>(backend, local, 16);
  }
  std::unique_ptr<Decoder> decoder;
  std::map<int32_t, AttentionWeights> attention;
  std::map<int32_t, FfnWeights> ffn;
  std::map<int32_t, MoeWeights> experts;
  std::map<std::string, Tensor> norm_weights;
  absl::Status status;
  ModelSpec local;  // with this rank's heads
  std::unique_ptr<PlainKv> kv;
};

class ShardedTest : public ::testing::TestWithParam<TinyCheckpoint> {};

// Attention and feed-forward part of each layer, and the logits, of the same rows: added up over ranks, or side by
// side.
std::vector<std::vector<float>> SumsOver(const Checkpoint& checkpoint, Backend& backend, int32_t ranks,
                                         std::vector<float> input) {
  const ModelSpec& spec = checkpoint.spec();
  const int64_t tokens = static_cast<int64_t>(input.size()) / spec.width;
  std::vector<int32_t> ids(tokens), positions(tokens);
  for (int32_t i = 0; i < tokens; ++i) positions[i] = i;
  const StepInput in{ids, positions};
  const std::vector<PlainRows> step = {{0, 0, ids}};
  const Tensor h{input.data(), DType::kF32, tokens, spec.width};
  std::vector<std::vector<float>> sums(2 * spec.layers, std::vector<float>(tokens * spec.width, 0.0f));
  std::vector<float> logits(spec.vocab, 0.0f);
  for (int32_t r = 0; r < ranks; ++r) {
    Part part(checkpoint, backend, r, ranks);
    EXPECT_OK(part.status);
    if (!part.status.ok()) return sums;
    part.kv->Begin(&step);
    for (int32_t l = 0; l < spec.layers; ++l) {
      const Tensor attended{sums[2 * l].data(), DType::kF32, tokens, spec.width};
      part.decoder->Attention(LayerId{l}, part.attention[l], in, *part.kv, h, attended, /*accumulate=*/true);
      const Tensor y{sums[2 * l + 1].data(), DType::kF32, tokens, spec.width};
      if (spec.layer[l].experts) {
        part.decoder->Experts(part.experts[l], h, y);
      } else {
        part.decoder->Ffn(LayerId{l}, part.ffn[l], in, h, y, /*accumulate=*/true);
      }
    }
    const ShardRange vocab = part.decoder->split().vocab;
    part.decoder->Logits(h, {5}, {logits.data() + vocab.begin, DType::kF32, 1, vocab.size()});
  }
  sums.push_back(logits);
  return sums;
}

constexpr int64_t kTokens = 21;

// Heads that are normalised together belong to one rank.
bool CannotBeSplit(const ModelSpec& spec) {
  if (spec.parts.qk_norm != QkNorm::kAll) return false;
  EXPECT_THAT(SplitTensors(spec, 1, 2), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("together")));
  return true;
}

TEST_P(ShardedTest, SumsOverRanksAreTheWhole) {
  const auto checkpoint = Checkpoint::Open(GetParam().Gguf());
  ASSERT_OK(checkpoint);
  if (CannotBeSplit((*checkpoint)->spec())) return;
  auto backend = *CreateBackend("cpu", {.ops = "reference"});
  Random random(3);
  const std::vector<float> input = random.Floats(kTokens * (*checkpoint)->spec().width);
  const std::vector<std::vector<float>> whole = SumsOver(**checkpoint, *backend, 1, input);
  for (int32_t ranks : {2, 4}) {
    const std::vector<std::vector<float>> sums = SumsOver(**checkpoint, *backend, ranks, input);
    ASSERT_EQ(sums.size(), whole.size());
    for (size_t i = 0; i < whole.size(); ++i) {
      double largest = 0, worst = 0;
      for (size_t j = 0; j < whole[i].size(); ++j) {
        largest = std::max(largest, std::abs(double{whole[i][j]}));
        worst = std::max(worst, std::abs(double{whole[i][j]} - sums[i][j]));
      }
      EXPECT_GT(largest, 0.01);
      EXPECT_LE(worst, 1e-5 * largest) << ranks << " ranks, part " << i;
    }
  }
}

// In exact arithmetic there is no tolerance.
TEST_P(ShardedTest, SumsOverRanksAreTheWholeExactlyInModularArithmetic) {
  const auto checkpoint = Checkpoint::Open(GetParam().Hf());
  ASSERT_OK(checkpoint);
  if (CannotBeSplit((*checkpoint)->spec())) return;
  auto backend = *MakeModularBackend({});
  Random random(4);
  std::vector<float> input(kTokens * (*checkpoint)->spec().width);
  for (float& value : input) value = static_cast<float>(random.Below(kPrime));
  const std::vector<std::vector<float>> whole = SumsOver(**checkpoint, *backend, 1, input);
  for (int32_t ranks : {2, 4}) {
    const std::vector<std::vector<float>> sums = SumsOver(**checkpoint, *backend, ranks, input);
    ASSERT_EQ(sums.size(), whole.size());
    for (size_t i = 0; i < whole.size(); ++i) {
      int64_t different = 0, zero = 0;
      for (size_t j = 0; j < whole[i].size(); ++j) {
        different += ResidueOf(whole[i][j]) != ResidueOf(sums[i][j]);
        zero += ResidueOf(whole[i][j]) == 0;
      }
      EXPECT_EQ(different, 0) << ranks << " ranks, part " << i;
      EXPECT_LT(zero, static_cast<int64_t>(whole[i].size()) / 10);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ShardedTest, ::testing::ValuesIn(kTinyCheckpoints),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace interlace
