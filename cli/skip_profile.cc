#include "cli/skip_profile.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "cli/skip_logits.h"
#include "common/entropy.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr size_t kFewestTokens = 8;

double MeanCosine(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t r = 0; r < a.rows; ++r) {
    const float *x = a.f32_row(r), *y = b.f32_row(r);
    double xy = 0, xx = 0, yy = 0;
    for (int64_t d = 0; d < a.cols; ++d) {
      xy += double{x[d]} * y[d];
      xx += double{x[d]} * x[d];
      yy += double{y[d]} * y[d];
    }
    sum += xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
  }
  return sum / static_cast<double>(a.rows);
}

// Spread over the second half of the text, where a position has something before it.
std::vector<int32_t> RowsOf(int32_t tokens, int32_t most) {
  const int32_t first = tokens / 2, count = std::min(most, tokens - first);
  std::vector<int32_t> rows;
  for (int32_t i = 0; i < count; ++i) rows.push_back(first + i * (tokens - first) / count);
  return rows;
}

class Drafting {
 public:
  Drafting(SkipModel& model, const SkipProfileOptions& options, Clock& clock)
      : model_(model), options_(options), clock_(clock) {}

  // Greedy tokens behind the text, the first of them the whole text's; how long the others took.
  absl::StatusOr<std::vector<int32_t>> DecodePlainly(const SkipText& text, double* seconds) {
    model_.Run(0, text.tokens, SkipPlan());
    ASSIGN_OR_RETURN(int32_t token, LastChoice(static_cast<int32_t>(text.tokens.size()) - 1));
    std::vector<int32_t> out = {token};
    const absl::Time begin = clock_.Now();
    for (int32_t i = 0; i < options_.outputs; ++i) {
      model_.Run(static_cast<int32_t>(text.tokens.size()) + i, {&token, 1}, SkipPlan());
      ASSIGN_OR_RETURN(token, LastChoice(0));
      out.push_back(token);
    }
    *seconds = absl::ToDoubleSeconds(clock_.Now() - begin);
    return out;
  }

  // The same with drafts by `plan`. `plain`: what plain decoding gave. KV of the text is there.
  absl::Status DecodeWithDrafts(const SkipText& text, const SkipPlan& plan, const std::vector<int32_t>& plain,
                                SkipDrafts* drafts) {
    drafts->tried.assign(options_.depth, 0);
    drafts->right.assign(options_.depth, 0);
    const auto prompt = static_cast<int32_t>(text.tokens.size());
    int32_t made = 1;  // tokens of `plain` that came out
    while (made <= options_.outputs) {
      const int32_t at = prompt + made - 1, depth = std::min(options_.depth, options_.outputs - made + 1);
      std::vector<int32_t> chain = {plain[made - 1]};
      const absl::Time begin = clock_.Now();
      for (int32_t d = 0; d < depth; ++d) {
        model_.Run(at + d, {&chain.back(), 1}, plan);
        ASSIGN_OR_RETURN(const int32_t guess, LastChoice(0));
        chain.push_back(guess);
      }
      const absl::Time guessed = clock_.Now();
      model_.Run(at, chain, SkipPlan());
      ASSIGN_OR_RETURN(const std::vector<int32_t> said, model_.Choices(depth + 1));
      drafts->draft_seconds += absl::ToDoubleSeconds(guessed - begin);
      drafts->verify_seconds += absl::ToDoubleSeconds(clock_.Now() - guessed);
      ++drafts->steps;
      int32_t right = 0;
      while (right < depth && chain[right + 1] == said[right]) ++right;
      for (int32_t d = 0; d < std::min(depth, right + 1); ++d) {
        ++drafts->tried[d];
        drafts->right[d] += d < right ? 1 : 0;
      }
      for (int32_t i = 0; i <= right && made <= options_.outputs; ++i, ++made) {
        drafts->wrong += said[i] == plain[made] ? 0 : 1;
        ++drafts->tokens;
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<int32_t> LastChoice(int32_t row) {
    ASSIGN_OR_RETURN(const absl::Span<const float> logits, model_.Logits({&row, 1}));
    return FirstChoice(logits);
  }

  SkipModel& model_;
  const SkipProfileOptions options_;
  Clock& clock_;
};

}  // namespace

absl::StatusOr<SkipPrompt> ProfileText(SkipModel& model, const SkipText& text, int32_t rows_at_most) {
  const int32_t layers = model.spec().layers;
  SkipPrompt prompt{text.task, static_cast<int32_t>(text.tokens.size()), {}, {}, {}};
  prompt.influence.resize(layers);
  prompt.kl.assign(2 * static_cast<size_t>(layers), 0);
  prompt.agreement.assign(2 * static_cast<size_t>(layers), 1);
  model.Run(0, text.tokens, [&](int32_t layer, const Tensor& before, const Tensor& after) {
    prompt.influence[layer] = 1 - MeanCosine(before, after);
  });
  const std::vector<int32_t> rows = RowsOf(prompt.tokens, rows_at_most);
  const int64_t vocab = model.spec().vocab;
  ASSIGN_OR_RETURN(absl::Span<const float> logits, model.Logits(rows));
  const std::vector<float> whole = LogSoftmax(logits, vocab);
  for (int32_t s = 2; s < 2 * (layers - 1); ++s) {
    const std::vector<int32_t> alone = {s};
    model.Run(0, text.tokens, PlanOf(alone, 1));
    ASSIGN_OR_RETURN(logits, model.Logits(rows));
    double kl = 0, agreement = 0;
    for (const RowDifference& row : CompareRows(whole, LogSoftmax(logits, vocab), vocab)) {
      kl += row.kl / static_cast<double>(rows.size());
      agreement += (row.same ? 1 : 0) / static_cast<double>(rows.size());
    }
    prompt.kl[s] = kl;
    prompt.agreement[s] = agreement;
  }
  return prompt;
}

absl::StatusOr<SkipResult> ProfileTexts(SkipModel& model, absl::Span<const SkipText> texts,
                                        const SkipProfileOptions& options, const StudyProgress& progress) {
  for (const SkipText& text : texts) {
    if (text.tokens.size() >= kFewestTokens && text.tokens.size() <= SkipModel::kMostRows) continue;
    return absl::InvalidArgumentError(absl::StrCat("a text of task ", text.task, " has ", text.tokens.size(),
                                                   " tokens; from ", kFewestTokens, " to ", SkipModel::kMostRows,
                                                   " can be measured"));
  }
  SkipResult result{.layers = model.spec().layers, .depth = options.depth};
  for (const SkipText& text : texts) {
    progress(absl::StrCat("profile, ", text.task), static_cast<int32_t>(result.prompts.size()),
             static_cast<int32_t>(texts.size()));
    ASSIGN_OR_RETURN(result.prompts.emplace_back(), ProfileText(model, text, options.rows));
  }
  return result;
}

absl::Status MeasureDrafts(SkipModel& model, absl::Span<const SkipText> texts, const SkipProfileOptions& options,
                           Clock& clock, const StudyProgress& progress, SkipResult* result) {
  Drafting drafting(model, options, clock);
  const SkipHalves halves = HalvesOf(texts);
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(options.seed);
  int32_t done = 0;
  for (const size_t index : halves.measured) {
    const SkipText& text = texts[index];
    progress(absl::StrCat("drafts, ", text.task), done++, static_cast<int32_t>(halves.measured.size()));
    const SkipOrders orders = OrdersFor(*result, halves, index, *entropy);
    for (const double share : options.shares) {
      const int32_t passed = PassedOf(share, result->layers);
      for (const char* method : kSkipMethods) {
        SkipDrafts drafts{.method = method, .task = text.task, .passed = passed, .tried = {}, .right = {}};
        const SkipPlan plan = PlanFor(orders, method, passed, result->layers);
        ASSIGN_OR_RETURN(const std::vector<int32_t> plain, drafting.DecodePlainly(text, &drafts.plain_seconds));
        RETURN_IF_ERROR(drafting.DecodeWithDrafts(text, plan, plain, &drafts));
        result->drafts.push_back(std::move(drafts));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace interlace
