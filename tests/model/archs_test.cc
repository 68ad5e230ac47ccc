// Every architecture, from safetensors and from GGUF, against transformers' logits; and exact in every shape.
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "tests/model/exact_runs.h"
#include "tests/model/tiny_checkpoints.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

struct Golden {
  std::vector<int32_t> tokens, rows;
  std::vector<std::vector<float>> logits;
};

Golden ReadGolden(const TinyCheckpoint& tiny) {
  std::ifstream file(tiny.Folder() + "/logits.json");
  EXPECT_TRUE(file) << tiny.name;
  const nlohmann::json json = nlohmann::json::parse(file);
  return {json["tokens"], json["rows"], json["logits"]};
}

// Tables that run here. The checkpoints are float: no table quantises what such weights are multiplied with.
std::vector<absl::string_view> Tables() {
  std::vector<absl::string_view> tables;
  for (absl::string_view ops : OpTableNames()) {
    if (FindOpTable(ops).ok()) tables.push_back(ops);
  }
  return tables;
}

class ArchsTest : public ::testing::TestWithParam<TinyCheckpoint> {};

TEST_P(ArchsTest, LogitsAreThoseOfTransformersFromEitherForm) {
  const Golden golden = ReadGolden(GetParam());
  ASSERT_GE(golden.rows.size(), 5u);
  for (const std::string& path : {GetParam().Hf(), GetParam().Gguf()}) {
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_OK(checkpoint);
    EXPECT_EQ((*checkpoint)->spec().architecture, GetParam().architecture);
    for (absl::string_view ops : Tables()) {
      auto engine = PlainEngine::Make(**checkpoint, {.ops = ops});
      ASSERT_OK(engine);
      (*engine)->Step({{0, golden.tokens}});
      double largest = 0, worst = 0;
      for (size_t i = 0; i < golden.rows.size(); ++i) {
        const std::vector<float> got = (*engine)->Logits({golden.rows[i]});
        ASSERT_EQ(got.size(), golden.logits[i].size());
        for (size_t v = 0; v < got.size(); ++v) {
          largest = std::max(largest, std::abs(double{golden.logits[i][v]}));
          worst = std::max(worst, std::abs(double{got[v]} - golden.logits[i][v]));
        }
      }
      EXPECT_GT(largest, 1);
      EXPECT_LE(worst, 1e-4 * largest) << path << ", ops " << ops << ", largest " << largest;
    }
  }
}

TEST_P(ArchsTest, SameBitsInEveryShape) {
  constexpr int32_t kChunks[] = {1, 16, 512, 0};
  const auto checkpoint = Checkpoint::Open(GetParam().Gguf());
  ASSERT_OK(checkpoint);
  const ModelSpec& spec = (*checkpoint)->spec();
  for (absl::string_view ops : Tables()) {
    Random random(5);
    const Prompts prompts = RandomPrompts(4, 3, 70, spec.vocab, random);
    const ExactResult want = RunExact(**checkpoint, prompts, {.options = {.ops = ops}}, 1, random);
    for (int i = 0; i < 6; ++i) {
      const ExactShape shape{.options = {.ops = ops,
                                         .threads = static_cast<int>(random.Between(1, 3)),
                                         .stages = static_cast<int32_t>(random.Between(1, spec.layers))},
                             .chunk = kChunks[random.Below(4)],
                             .together = random.Below(2) == 1};
      ExpectSameBits(want, RunExact(**checkpoint, prompts, shape, 1, random), shape.ToString());
    }
  }
}

// The two forms hold the same numbers, so that they give the same bits wherever the order of rows is the same too.
TEST_P(ArchsTest, BothFormsGiveTheSameModel) {
  const auto hf = Checkpoint::Open(GetParam().Hf()), gguf = Checkpoint::Open(GetParam().Gguf());
  ASSERT_OK(hf);
  ASSERT_OK(gguf);
  const ModelSpec &a = (*hf)->spec(), &b = (*gguf)->spec();
  EXPECT_NE(a.digest, b.digest);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.width, b.width);
  EXPECT_EQ(a.heads, b.heads);
  EXPECT_EQ(a.kv_heads, b.kv_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.vocab, b.vocab);
  EXPECT_EQ(a.context, b.context);
  EXPECT_EQ(a.tied_head, b.tied_head);
  EXPECT_EQ(a.embedding_scale, b.embedding_scale);
  EXPECT_EQ(a.residual_scale, b.residual_scale);
  EXPECT_EQ(a.logit_scale, b.logit_scale);
  EXPECT_EQ(a.logit_cap, b.logit_cap);
  EXPECT_EQ(a.experts.count, b.experts.count);
  EXPECT_EQ(a.experts.top_k, b.experts.top_k);
  EXPECT_EQ(a.experts.feed_forward, b.experts.feed_forward);
  EXPECT_EQ(a.experts.shared_feed_forward, b.experts.shared_feed_forward);
  EXPECT_EQ(a.experts.normalise, b.experts.normalise);
  ASSERT_EQ(a.ropes.size(), b.ropes.size());
  for (size_t r = 0; r < a.ropes.size(); ++r) {
    EXPECT_FLOAT_EQ(a.ropes[r].magnitude, b.ropes[r].magnitude);
    ASSERT_EQ(a.ropes[r].frequencies.size(), b.ropes[r].frequencies.size());
    for (size_t i = 0; i < a.ropes[r].frequencies.size(); ++i) {
      EXPECT_FLOAT_EQ(a.ropes[r].frequencies[i], b.ropes[r].frequencies[i]);
    }
  }
  for (int32_t l = 0; l < a.layers; ++l) {
    EXPECT_EQ(a.layer[l].attention, b.layer[l].attention) << l;
    EXPECT_EQ(a.layer[l].rope, b.layer[l].rope) << l;
    EXPECT_EQ(a.layer[l].experts, b.layer[l].experts) << l;
  }
  std::vector<std::string> names_a, names_b;
  for (const auto& [name, tensor] : (*hf)->tensors()) names_a.push_back(name);
  for (const auto& [name, tensor] : (*gguf)->tensors()) {
    if (!absl::StartsWith(name, "rope_f")) names_b.push_back(name);
  }
  EXPECT_EQ(names_a, names_b);
}

INSTANTIATE_TEST_SUITE_P(All, ArchsTest, ::testing::ValuesIn(kTinyCheckpoints),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace interlace
