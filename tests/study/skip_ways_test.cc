// The model run by plans and with early exits, on a tiny model: against its own layers put together by hand.
#include "cli/skip_ways.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "cli/model_cost.h"
#include "cli/skip_logits.h"
#include "cli/skip_profile.h"
#include "cli/skip_quality.h"
#include "tests/kernels/random_tensor.h"
#include "tests/model/tiny_checkpoints.h"
#include "tests/status_matchers.h"
#include "tests/study/quiet_test.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::Each;
using ::testing::ElementsAreArray;
using ::testing::Field;

constexpr int32_t kLayers = 5, kTokens = 24;

class SkipWaysTest : public QuietTest {
 protected:
  SkipWaysTest() {
    auto model = SkipModel::Open(OneThreadConfig(file_.path(), 16), 96);
    EXPECT_OK(model.status());
    model_ = *std::move(model);
    Random random(4);
    for (int32_t i = 0; i < kTokens; ++i) tokens_.push_back(static_cast<int32_t>(random.Between(40, 120)));
  }
  std::vector<float> Logits(int32_t rows) {
    std::vector<int32_t> all(rows);
    for (int32_t r = 0; r < rows; ++r) all[r] = r;
    const auto logits = model_->Logits(all);
    EXPECT_OK(logits.status());
    return {logits->begin(), logits->end()};
  }
  std::vector<float> Whole() {
    model_->Run(0, tokens_, SkipPlan());
    return Logits(kTokens);
  }
  absl::Span<const float> Row(const std::vector<float>& logits, size_t row) const {
    const auto vocab = static_cast<size_t>(model_->spec().vocab);
    return absl::MakeConstSpan(logits).subspan(row * vocab, vocab);
  }

  TinyFile file_{{.layers = kLayers}};
  std::unique_ptr<SkipModel> model_;
  std::vector<int32_t> tokens_;
};

TEST_F(SkipWaysTest, ALeadOfOneIsTheWholeModelBitForBit) {
  const std::vector<float> whole = Whole();
  for (const double lead : {1.0, 2.0}) {
    const auto rows = model_->RunExiting(0, tokens_, {{0, 1, 2, 3, 4}, lead});
    ASSERT_OK(rows);
    EXPECT_THAT(*rows, Each(Field(&ExitedRow::layers, kLayers)));
    EXPECT_THAT(*rows, Each(Field(&ExitedRow::looks, kLayers - 1))) << "behind the last layer nobody asks";
    EXPECT_EQ(Logits(kTokens), whole);
  }
  // And greedily, token by token.
  WayRunner runner(*model_);
  const auto enough = [](absl::Span<const int32_t> said) { return said.size() == 20; };
  const SkipWay plain{.method = "whole"}, sure{.method = "confidence", .exit = ExitRule{{1, 2}, 1}};
  runner.Prepare(absl::MakeConstSpan(tokens_).first(kTokens - 1));
  const auto expected = runner.Decode(kTokens - 1, tokens_.back(), plain, enough, nullptr);
  runner.Prepare(absl::MakeConstSpan(tokens_).first(kTokens - 1));
  const auto said = runner.Decode(kTokens - 1, tokens_.back(), sure, enough, nullptr);
  ASSERT_OK(expected);
  ASSERT_OK(said);
  EXPECT_EQ(*said, *expected);
}

TEST_F(SkipWaysTest, WhoIsAlwaysSureLeavesAtTheFirstLook) {
  // The hidden state behind layer 1, as the watch sees it.
  std::vector<float> behind;
  model_->Run(0, tokens_, [&](int32_t layer, const Tensor&, const Tensor& after) {
    if (layer == 1) behind.assign(after.f32_row(0), after.f32_row(0) + after.rows * after.cols);
  });
  const auto rows = model_->RunExiting(0, tokens_, {{1, 3}, -1});
  ASSERT_OK(rows);
  EXPECT_THAT(*rows, Each(Field(&ExitedRow::layers, 2)));
  EXPECT_THAT(*rows, Each(Field(&ExitedRow::looks, 1)));
  const std::vector<float> exited = Logits(kTokens);
  // Its logits are the head's of that state: those of a rule that looks there and at nothing else.
  ASSERT_OK(model_->RunExiting(0, tokens_, {{1}, -1}));
  EXPECT_EQ(Logits(kTokens), exited);
  EXPECT_NE(exited, Whole());
  EXPECT_EQ(behind.size(), static_cast<size_t>(kTokens * model_->spec().width));
}

TEST_F(SkipWaysTest, RowsThatLeaveAndRowsThatStayAreThoseOfTheirOwnRuns) {
  // A lead between the surest and the least sure row of the look, so that both kinds are there.
  ASSERT_OK(model_->RunExiting(0, tokens_, {{1}, -1}));
  const std::vector<float> at_look = Logits(kTokens);
  std::vector<double> leads;
  for (int32_t r = 0; r < kTokens; ++r) leads.push_back(LeadOf(Row(at_look, r)));
  std::vector<double> sorted = leads;
  std::sort(sorted.begin(), sorted.end());
  const ExitRule rule{{1}, (sorted[kTokens / 2 - 1] + sorted[kTokens / 2]) / 2};
  const auto rows = model_->RunExiting(0, tokens_, rule);
  ASSERT_OK(rows);
  const std::vector<float> together = Logits(kTokens);
  for (int32_t r = 0; r < kTokens; ++r) {
    EXPECT_EQ((*rows)[r].layers, leads[r] > rule.lead ? 2 : kLayers) << r;
    // Layers 0 and 1 are whole for all rows, so what is asked there does not depend on who left.
    if (leads[r] <= rule.lead) continue;
    EXPECT_THAT(Row(together, r), ElementsAreArray(Row(at_look, r))) << r;
  }
  // One row at a time is the same as all at once: K and V of rows that left are there for those that stay.
  for (int32_t r = 0; r < kTokens; ++r) {
    const auto row = model_->RunExiting(r, {&tokens_[r], 1}, rule);
    ASSERT_OK(row);
    EXPECT_EQ((*row)[0].layers, (*rows)[r].layers) << r;
    EXPECT_THAT(Logits(1), ElementsAreArray(Row(together, r))) << r;
  }
}

TEST_F(SkipWaysTest, OfAttentionThatIsPassedOverKeysAndValuesStay) {
  // Positions 0 to 9 by a plan, then a whole step that attends to them: with garbage left there it would say otherwise.
  SkipPlan plan;
  for (int32_t l = 1; l + 1 < kLayers; ++l) plan.attention.Add(LayerId{l});
  const absl::Span<const int32_t> first = absl::MakeConstSpan(tokens_).first(10);
  const auto after = [&] {
    model_->RunBounded(0, first, plan);
    model_->Run(10, absl::MakeConstSpan(tokens_).subspan(10, 4), SkipPlan());
    return Logits(4);
  };
  const std::vector<float> fresh = after();
  std::vector<int32_t> others(16, 77);
  model_->Run(0, others, SkipPlan());
  EXPECT_EQ(after(), fresh) << "KV of an earlier run was attended to";
  model_->Run(0, others, SkipPlan());
  model_->Run(0, first, plan);
  model_->Run(10, absl::MakeConstSpan(tokens_).subspan(10, 4), SkipPlan());
  EXPECT_NE(Logits(4), fresh) << "draft passes leave what was there";
}

TEST_F(SkipWaysTest, TruncationBehindTheLastLayersIsTheWholeModel) {
  const std::vector<float> whole = Whole();
  for (const int32_t exit : {kLayers - 1, kLayers}) {
    model_->RunBounded(0, tokens_, SkipPlan::After(exit, kLayers));
    EXPECT_EQ(Logits(kTokens), whole) << exit;
  }
  model_->RunBounded(0, tokens_, SkipPlan::After(2, kLayers));
  EXPECT_NE(Logits(kTokens), whole);
}

TEST_F(SkipWaysTest, PreparedPositionsAreNotComputedAgainAndAreTheWholeModels) {
  WayRunner runner(*model_);
  const SkipWay harsh{.method = "truncation", .plan = SkipPlan::After(1, kLayers)};
  const auto enough = [](absl::Span<const int32_t> said) { return said.size() == 8; };
  const auto plain = [&] {
    runner.Prepare(absl::MakeConstSpan(tokens_).first(kTokens - 1));
    const auto said = runner.Decode(kTokens - 1, tokens_.back(), {.method = "whole"}, enough, nullptr);
    EXPECT_OK(said.status());
    return *said;
  };
  const std::vector<int32_t> fresh = plain();
  // By a plan from the middle on, which must all be computed anew.
  ASSERT_OK(runner.Run(5, absl::MakeConstSpan(tokens_).subspan(5), harsh, nullptr));
  EXPECT_EQ(plain(), fresh);
  std::vector<int32_t> others = tokens_;
  others[3] = others[3] + 1;
  runner.Prepare(others);
  EXPECT_EQ(plain(), fresh);
}

TEST_F(SkipWaysTest, QualityOfTheEmptyPlanIsTheWholeModels) {
  // Perplexity by hand, from logits of one run.
  const std::vector<float> log_probabilities = LogSoftmax(Whole(), model_->spec().vocab);
  double nll = 0;
  for (int32_t r = kTokens / 2 - 1; r + 1 < kTokens; ++r) {
    nll -= log_probabilities[int64_t{r} * model_->spec().vocab + tokens_[r + 1]];
  }
  const std::vector<SkipText> texts = {{"chat", tokens_}};
  auto result = ProfileTexts(*model_, texts, {.rows = 4}, [](const std::string&, int32_t, int32_t) {});
  ASSERT_OK(result);
  SkipQualityOptions options;
  options.outputs = 6;
  options.ways = {.shares = {0.001, 0.5}, .truncations = {0.2, 1}, .looks = {0.5}, .leads = {0.001, 1}};
  ASSERT_OK(MeasureQuality(
      *model_, texts, options, [](const std::string&, int32_t, int32_t) {}, &*result));
  EXPECT_EQ(result->quality.samples.size(), 5 * 2 + 2 + 2u);
  for (const QualitySample& sample : result->quality.samples) {
    SCOPED_TRACE(absl::StrCat(sample.method, " ", sample.setting));
    EXPECT_EQ(sample.positions, kTokens / 2);
    EXPECT_NEAR(sample.whole_nll, nll, 1e-4 * nll);
    const bool empty = sample.method == "confidence"   ? sample.setting == 1
                       : sample.method == "truncation" ? sample.setting == kLayers - 1
                                                       : sample.setting == 0.001;
    if (empty) {
      EXPECT_EQ(sample.nll, sample.whole_nll);
      EXPECT_THAT(sample.kl, Each(0));
      EXPECT_EQ(sample.agreed, sample.positions);
      EXPECT_EQ(sample.same, options.outputs);
      EXPECT_EQ(sample.passed, 0);
    } else {
      EXPECT_NE(sample.nll, sample.whole_nll);
      EXPECT_GT(sample.passed, 0);
    }
    if (empty && sample.method != "confidence") {
      EXPECT_DOUBLE_EQ(sample.cost.flops, sample.whole_cost.flops);
      EXPECT_DOUBLE_EQ(sample.cost.bytes, sample.whole_cost.bytes);
    } else if (empty) {
      EXPECT_GT(sample.cost.flops, sample.whole_cost.flops) << "looks in vain are paid for";
    } else {
      EXPECT_LT(sample.cost.bytes, sample.whole_cost.bytes);
    }
  }
}

TEST(SkipLogitsTest, AgainstPlainDefinitions) {
  const std::vector<float> logits = {1, 3, 2, 3, -1, 0, 0, 0};
  const std::vector<float> log_probabilities = LogSoftmax(logits, 4);
  double sum = 0;
  for (int i = 0; i < 4; ++i) sum += std::exp(log_probabilities[i]);
  EXPECT_NEAR(sum, 1, 1e-6);
  EXPECT_EQ(LeadOf(absl::MakeConstSpan(logits).first(4)), 0) << "two are first";
  EXPECT_EQ(FirstChoice(logits), 1);
  const std::vector<float> odds = {std::log(0.7f), std::log(0.1f), std::log(0.2f)};
  EXPECT_NEAR(LeadOf(odds), 0.5, 1e-6);
  const std::vector<float> other = {std::log(0.2f), std::log(0.1f), std::log(0.7f)};
  const std::vector<RowDifference> rows = CompareRows(odds, other, 3);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_NEAR(rows[0].kl, 0.7 * std::log(3.5) - 0.2 * std::log(3.5), 1e-6);
  EXPECT_FALSE(rows[0].same);
  EXPECT_TRUE(CompareRows(odds, odds, 3)[0].same);
}

// What a layer of the tiny model has, by its shapes.
TEST(ModelCostTest, OfATinyModel) {
  const TinyGgufOptions tiny{.layers = 3, .types = {GgufType::kF32}};
  const TinyFile file(tiny);
  const auto checkpoint = Checkpoint::Open(file.path());
  ASSERT_OK(checkpoint);
  const ModelCost cost = CostOfModel(**checkpoint, 100);
  ASSERT_EQ(cost.layers.size(), 3u);
  const double q = tiny.heads * tiny.head_dim * tiny.width, kv = 2.0 * tiny.kv_heads * tiny.head_dim * tiny.width;
  for (const LayerCost& layer : cost.layers) {
    EXPECT_EQ(layer.attention.flops, 2 * (2 * q + kv));
    EXPECT_EQ(layer.kv.flops, 2 * kv);
    EXPECT_EQ(layer.feed_forward.flops, 2.0 * 3 * tiny.feed_forward * tiny.width);
    EXPECT_EQ(layer.feed_forward.bytes, 4.0 * 3 * tiny.feed_forward * tiny.width);
    EXPECT_EQ(layer.pair.flops, 4.0 * tiny.heads * tiny.head_dim);
    EXPECT_EQ(layer.pair.bytes, 100);
    EXPECT_EQ(layer.row_bytes, 100);
  }
  EXPECT_EQ(cost.head.flops, 2.0 * (*checkpoint)->spec().vocab * tiny.width);
}

TEST(ModelCostTest, OfExpertsThoseOfOneTokenCount) {
  int routed = 0;
  for (const TinyCheckpoint& tiny : kTinyCheckpoints) {
    const auto checkpoint = Checkpoint::Open(tiny.Gguf());
    ASSERT_OK(checkpoint);
    const ModelSpec& spec = (*checkpoint)->spec();
    const ModelCost cost = CostOfModel(**checkpoint, 100);
    for (int32_t l = 0; l < spec.layers; ++l) {
      double elements = 3.0 * spec.feed_forward;
      if (spec.layer[l].experts) {
        ++routed;
        const int32_t shared = spec.experts.shared_feed_forward;
        elements = 3.0 * spec.experts.top_k * spec.experts.feed_forward + spec.experts.count +
                   (shared > 0 ? 3.0 * shared + 1 : 0);
      }
      EXPECT_EQ(cost.layers[l].feed_forward.flops, 2 * elements * spec.width) << tiny.name << ", layer " << l;
    }
  }
  EXPECT_GT(routed, 0);
}

}  // namespace
}  // namespace interlace
