// Gemma 3 270M against tests/golden/model/gemma3.json, which tests/golden/make_gemma3_reference.py wrote.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/model/plain_engine.h"
#include "tests/status_matchers.h"
#include "tests/test_model.h"

namespace interlace {
namespace {

// Quantised weights meet 8-bit activations: a reference token may lose to one that is close behind.
constexpr double kMargin = 0.5;

class Gemma3GoldenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ifstream file("tests/golden/model/gemma3.json");
    ASSERT_TRUE(file);
    golden_ = nlohmann::json::parse(file);
    auto checkpoint = Checkpoint::Open(GemmaModelPath());
    ASSERT_OK(checkpoint);
    checkpoint_ = *std::move(checkpoint);
  }
  std::unique_ptr<PlainEngine> Engine(absl::string_view ops) {
    auto engine = PlainEngine::Make(*checkpoint_, {.ops = ops, .threads = 2});
    EXPECT_OK(engine);
    return *std::move(engine);
  }
  nlohmann::json golden_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(Gemma3GoldenTest, TheFileIsReadAsWhatItIs) {
  const ModelSpec& spec = checkpoint_->spec();
  EXPECT_EQ(spec.layers, 18);
  EXPECT_EQ(spec.width, 640);
  EXPECT_EQ(spec.heads, 4);
  EXPECT_EQ(spec.kv_heads, 1);
  EXPECT_EQ(spec.head_dim, 256);
  EXPECT_EQ(spec.vocab, 262144);
  for (int32_t l = 0; l < 18; ++l) {
    EXPECT_EQ(spec.layer[l].attention.window, (l + 1) % 6 == 0 ? 0 : 512);
    EXPECT_FLOAT_EQ(spec.layer[l].attention.scale, 1.0f / 16);
  }
}

// On float activations nothing is left but the order of sums.
TEST_F(Gemma3GoldenTest, ReferenceOpsGiveTheReferencesLogits) {
  std::unique_ptr<PlainEngine> engine = Engine("reference");
  const nlohmann::json& golden = golden_["prompts"][0];
  const std::vector<int32_t> prompt = golden["prompt"];
  engine->Step({{0, prompt}});
  const std::vector<float> row = engine->Logits({static_cast<int32_t>(prompt.size()) - 1});
  for (const auto& [id, value] : golden["top"].get<std::vector<std::pair<int32_t, double>>>()) {
    EXPECT_NEAR(row[id], value, 2e-3) << id;
  }
}

// Each prompt runs on along the reference's tokens, so that one near tie does not hide what follows.
TEST_F(Gemma3GoldenTest, ContinuesGreedilyAsTheReferenceDoes) {
  std::unique_ptr<PlainEngine> engine = Engine("auto");
  int sequence = 0, mismatches = 0, tokens = 0;
  for (const nlohmann::json& golden : golden_["prompts"]) {
    std::vector<int32_t> next = golden["prompt"];
    const std::vector<double> margins = golden["margins"];
    for (size_t step = 0; step < margins.size(); ++step) {
      engine->Step({{sequence, next}});
      const int32_t got = ArgMax(engine->Logits({static_cast<int32_t>(next.size()) - 1}).data(), engine->spec().vocab);
      const int32_t want = golden["tokens"][step];
      ++tokens;
      if (got != want) {
        ++mismatches;
        EXPECT_LT(margins[step], kMargin) << "prompt " << sequence << " step " << step << ": " << got << ", " << want;
      }
      next = {want};
    }
    ++sequence;
  }
  EXPECT_GE(tokens, 72);
  EXPECT_LE(mismatches, 3);  // 1 when this was written
  std::printf("%d tokens, %d others than the reference's\n", tokens, mismatches);
}

// Longer than the window: the last tokens see 512 in five layers of six.
TEST_F(Gemma3GoldenTest, LossIsTheReferencesBeyondTheWindow) {
  std::unique_ptr<PlainEngine> engine = Engine("auto");
  const std::vector<int32_t> text = golden_["text"];
  const std::vector<double> want = golden_["nll"];
  double loss = 0, reference = 0;
  const auto count = static_cast<int32_t>(text.size());
  for (int32_t begin = 0; begin < count; begin += 100) {
    const int32_t end = std::min(begin + 100, count);
    engine->Step({{0, {text.begin() + begin, text.begin() + end}}});
    for (int32_t i = begin; i < end && i + 1 < count; i += 4) {
      const std::vector<float> row = engine->Logits({i - begin});
      const double largest = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (float value : row) sum += std::exp(value - largest);
      loss += std::log(sum) + largest - row[text[i + 1]];
      reference += want[i];
    }
  }
  const double positions = (count + 2) / 4;
  std::printf("perplexity %.4f, of the reference %.4f\n", std::exp(loss / positions), std::exp(reference / positions));
  EXPECT_NEAR(loss / positions, reference / positions, 0.03);
}

}  // namespace
}  // namespace interlace
