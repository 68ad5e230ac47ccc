#include "cli/skip_quality.h"

#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/skip_logits.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

// One text: what the whole model says of its second half and behind it, and what other ways do.
class TextByWays {
 public:
  TextByWays(SkipModel& model, const SkipText& text, int32_t outputs)
      : model_(model), runner_(model), text_(text), outputs_(outputs), tokens_(text.tokens) {}

  absl::Status RunWhole() {
    runner_.Prepare(tokens_.first(tokens_.size() - 1));
    const auto all = [&](absl::Span<const int32_t> said) { return said.size() == static_cast<size_t>(outputs_); };
    ASSIGN_OR_RETURN(said_, runner_.Decode(Last(), tokens_.back(), kWhole, all, nullptr));
    ASSIGN_OR_RETURN(log_probabilities_, SecondHalf(kWhole, nullptr));
    return absl::OkStatus();
  }

  // A sample for each way.
  absl::Status Measure(absl::Span<const SkipWay> ways, std::vector<QualitySample>* samples) {
    // All that decode first: until then the KV of the text stays the whole model's.
    std::vector<int32_t> same;
    for (const SkipWay& way : ways) {
      ASSIGN_OR_RETURN(same.emplace_back(), SameTokens(way));
    }
    for (size_t i = 0; i < ways.size(); ++i) {
      ASSIGN_OR_RETURN(QualitySample sample, MeasureSecondHalf(ways[i]));
      sample.same = same[i];
      sample.decoded = outputs_;
      samples->push_back(std::move(sample));
    }
    return absl::OkStatus();
  }

 private:
  static inline const SkipWay kWhole{.method = "whole"};

  int32_t Last() const { return static_cast<int32_t>(tokens_.size()) - 1; }
  // The last token of the first half, which is the first that a way computes.
  int32_t First() const { return static_cast<int32_t>(tokens_.size()) / 2 - 1; }

  // Log probabilities at positions First() to the last but one.
  absl::StatusOr<std::vector<float>> SecondHalf(const SkipWay& way, WayCost* cost) {
    const auto first = static_cast<size_t>(First());
    runner_.Prepare(tokens_.first(first));
    const absl::Span<const int32_t> computed = tokens_.subspan(first, tokens_.size() - 1 - first);
    RETURN_IF_ERROR(runner_.Run(First(), computed, way, cost));
    std::vector<int32_t> rows(computed.size());
    std::iota(rows.begin(), rows.end(), 0);
    ASSIGN_OR_RETURN(const absl::Span<const float> logits, model_.Logits(rows));
    return LogSoftmax(logits, model_.spec().vocab);
  }

  absl::StatusOr<QualitySample> MeasureSecondHalf(const SkipWay& way) {
    QualitySample sample{.method = way.method, .setting = way.setting, .task = text_.task};
    WayCost cost;
    ASSIGN_OR_RETURN(const std::vector<float> said, SecondHalf(way, &cost));
    sample.positions = cost.rows;
    sample.passed = cost.passed;
    sample.cost = cost.cost;
    sample.whole_cost = cost.whole;
    const int64_t vocab = model_.spec().vocab;
    for (const RowDifference& row : CompareRows(log_probabilities_, said, vocab)) {
      sample.kl.push_back(row.kl);
      sample.agreed += row.same ? 1 : 0;
    }
    for (int64_t row = 0; row < sample.positions; ++row) {
      const int64_t at = row * vocab + tokens_[static_cast<size_t>(First() + row + 1)];
      sample.nll -= said[at];
      sample.whole_nll -= log_probabilities_[at];
    }
    return sample;
  }

  // Greedy tokens behind the text before the first that the whole model does not give.
  absl::StatusOr<int32_t> SameTokens(const SkipWay& way) {
    runner_.Prepare(tokens_.first(tokens_.size() - 1));
    const auto differs = [&](absl::Span<const int32_t> said) {
      return said.size() == said_.size() || (!said.empty() && said.back() != said_[said.size() - 1]);
    };
    ASSIGN_OR_RETURN(const std::vector<int32_t> said, runner_.Decode(Last(), tokens_.back(), way, differs, nullptr));
    int32_t same = 0;
    while (static_cast<size_t>(same) < said.size() && said[same] == said_[same]) ++same;
    return same;
  }

  SkipModel& model_;
  WayRunner runner_;
  const SkipText& text_;
  const int32_t outputs_;
  const absl::Span<const int32_t> tokens_;
  std::vector<int32_t> said_;             // by the whole model, behind the text
  std::vector<float> log_probabilities_;  // its, of the second half
};

}  // namespace

absl::Status MeasureQuality(SkipModel& model, absl::Span<const SkipText> texts, const SkipQualityOptions& options,
                            const StudyProgress& progress, SkipResult* result) {
  const SkipHalves halves = HalvesOf(texts);
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(options.seed);
  int32_t done = 0;
  for (const size_t index : halves.measured) {
    progress(absl::StrCat("quality, ", texts[index].task), done++, static_cast<int32_t>(halves.measured.size()));
    TextByWays text(model, texts[index], options.outputs);
    RETURN_IF_ERROR(text.RunWhole());
    const std::vector<SkipWay> ways =
        WaysFor(OrdersFor(*result, halves, index, *entropy), options.ways, result->layers);
    RETURN_IF_ERROR(text.Measure(ways, &result->quality.samples));
  }
  return absl::OkStatus();
}

}  // namespace interlace
