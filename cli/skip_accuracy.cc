#include "cli/skip_accuracy.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cli/skip_logits.h"
#include "cli/skip_profile.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

using Tokens = std::vector<int32_t>;

// The prompt, and each choice as what follows it.
TokenTest::Item ItemOf(const SkipTestItem& item, const Tokenizer& tokenizer) {
  TokenTest::Item out{tokenizer.EncodePrompt(item.prompt), {}};
  const bool apart = !item.prompt.empty() && absl::ascii_isspace(item.prompt.back());
  for (const std::string& choice : item.choices) {
    out.choices.push_back(tokenizer.EncodePrompt(absl::StrCat(item.prompt, apart ? "" : " ", choice)));
    const auto border =
        std::mismatch(out.prompt.begin(), out.prompt.end(), out.choices.back().begin(), out.choices.back().end());
    out.prompt.erase(border.first, out.prompt.end());
  }
  for (Tokens& choice : out.choices) {
    choice.erase(choice.begin(), choice.begin() + static_cast<ptrdiff_t>(out.prompt.size()));
  }
  return out;
}

absl::Status CheckItem(const TokenTest& test, const TokenTest::Item& item, int32_t tokens, int32_t context) {
  if (item.prompt.empty()) return absl::InvalidArgumentError(absl::StrCat(test.set.name, ": an item has no prompt"));
  if (tokens > context) {
    return absl::InvalidArgumentError(absl::StrCat(test.set.name, ": an item has ", tokens,
                                                   " tokens with its answer, and the model's context ", context,
                                                   "; ask for fewer worked examples or words"));
  }
  for (const Tokens& choice : item.choices) {
    if (!choice.empty() && choice.size() <= static_cast<size_t>(SkipModel::kMostRows)) continue;
    return absl::InvalidArgumentError(absl::StrCat(test.set.name, ": a choice has ", choice.size(),
                                                   " tokens; from 1 to ", SkipModel::kMostRows, " can be weighed"));
  }
  return absl::OkStatus();
}

class Answers {
 public:
  Answers(SkipModel& model, const Tokenizer& tokenizer, const TokenTest& test)
      : model_(model), tokenizer_(tokenizer), test_(test), runner_(model) {}

  // Whether item `index` is answered right.
  absl::StatusOr<bool> Ask(size_t index, const SkipWay& way, WayCost* cost) {
    const TokenTest::Item& item = test_.items[index];
    const auto last = static_cast<int32_t>(item.prompt.size()) - 1;
    runner_.Prepare(absl::MakeConstSpan(item.prompt).first(item.prompt.size() - 1));
    if (!item.choices.empty()) {
      ASSIGN_OR_RETURN(const int32_t chosen, Choose(item, last, way, cost));
      return chosen == test_.set.items[index].answer;
    }
    const auto done = [&](absl::Span<const int32_t> said) {
      return said.size() >= static_cast<size_t>(test_.set.outputs) || (!said.empty() && Stops(said.back())) ||
             IsAnswered(test_.set.kind, tokenizer_.Decode(said));
    };
    ASSIGN_OR_RETURN(const Tokens said, runner_.Decode(last, item.prompt.back(), way, done, cost));
    return IsRight(test_.set.kind, test_.set.items[index], tokenizer_.Decode(said));
  }
  void Forget() { runner_.Forget(); }

 private:
  bool Stops(int32_t token) const {
    const std::vector<int32_t>& stops = tokenizer_.stop_tokens();
    return std::find(stops.begin(), stops.end(), token) != stops.end();
  }

  // The likeliest choice; the first of equally likely ones.
  absl::StatusOr<int32_t> Choose(const TokenTest::Item& item, int32_t last, const SkipWay& way, WayCost* cost) {
    RETURN_IF_ERROR(runner_.Run(last, {&item.prompt.back(), 1}, way, cost));
    ASSIGN_OR_RETURN(const std::vector<float> first, LogProbabilities(1));
    int32_t best = 0;
    double most = -HUGE_VAL;
    for (size_t c = 0; c < item.choices.size(); ++c) {
      const Tokens& choice = item.choices[c];
      double likely = first[choice[0]];
      if (choice.size() > 1) {
        const absl::Span<const int32_t> behind = absl::MakeConstSpan(choice).first(choice.size() - 1);
        RETURN_IF_ERROR(runner_.Run(last + 1, behind, way, cost));
        ASSIGN_OR_RETURN(const std::vector<float> others, LogProbabilities(static_cast<int32_t>(behind.size())));
        for (size_t t = 1; t < choice.size(); ++t) {
          likely += others[(t - 1) * static_cast<size_t>(model_.spec().vocab) + static_cast<size_t>(choice[t])];
        }
      }
      if (likely <= most) continue;
      most = likely;
      best = static_cast<int32_t>(c);
    }
    return best;
  }

  // Of the first rows of the last run.
  absl::StatusOr<std::vector<float>> LogProbabilities(int32_t count) {
    std::vector<int32_t> rows(count);
    for (int32_t r = 0; r < count; ++r) rows[r] = r;
    ASSIGN_OR_RETURN(const absl::Span<const float> logits, model_.Logits(rows));
    return LogSoftmax(logits, model_.spec().vocab);
  }

  SkipModel& model_;
  const Tokenizer& tokenizer_;
  const TokenTest& test_;
  WayRunner runner_;
};

// One sample for each way; that of the whole model is the first.
class Tally {
 public:
  explicit Tally(std::string test) : test_(std::move(test)) {}
  void Note(size_t at, const SkipWay& way, bool right, const WayCost& cost) {
    if (at == samples_.size()) samples_.push_back({.method = way.method, .setting = way.setting, .test = test_});
    TestSample& sample = samples_[at];
    sample.right.push_back(right);
    sample.cost += cost.cost;
    sample.whole_cost += cost.whole;
  }
  std::vector<TestSample> Take() { return std::move(samples_); }

 private:
  const std::string test_;
  std::vector<TestSample> samples_;
};

}  // namespace

absl::StatusOr<TokenTest> TokenTestOf(SkipTestSet set, const Tokenizer& tokenizer, int32_t most, int32_t context) {
  TokenTest test{.set = std::move(set)};
  for (const std::string& text : test.set.calibration) {
    Tokens tokens = tokenizer.EncodePrompt(text);
    if (tokens.size() > static_cast<size_t>(most)) tokens.erase(tokens.begin(), tokens.end() - most);
    test.calibration.push_back({test.set.name, std::move(tokens)});
  }
  for (const SkipTestItem& item : test.set.items) {
    test.items.push_back(ItemOf(item, tokenizer));
    size_t behind = static_cast<size_t>(test.set.outputs);
    for (const Tokens& choice : test.items.back().choices) behind = std::max(behind, choice.size());
    const auto tokens = static_cast<int32_t>(test.items.back().prompt.size() + behind);
    test.most_tokens = std::max(test.most_tokens, tokens);
    RETURN_IF_ERROR(CheckItem(test, test.items.back(), tokens, context));
  }
  return test;
}

absl::Status MeasureAccuracy(SkipModel& model, const Tokenizer& tokenizer, absl::Span<const SkipText> texts,
                             const TokenTest& test, const SkipAccuracyOptions& options, const StudyProgress& progress,
                             SkipResult* result) {
  std::vector<SkipPrompt> profiles;
  for (const SkipText& text : test.calibration) {
    progress(absl::StrCat(test.set.name, ", profile"), 0, static_cast<int32_t>(test.items.size()));
    ASSIGN_OR_RETURN(profiles.emplace_back(), ProfileText(model, text, options.rows));
  }
  std::vector<const SkipPrompt*> task;
  for (const SkipPrompt& profile : profiles) task.push_back(&profile);
  const std::vector<const SkipPrompt*> all = CalibrationOf(*result, HalvesOf(texts));
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(options.seed);
  Answers answers(model, tokenizer, test);
  Tally tally(test.set.name);
  for (size_t index = 0; index < test.items.size(); ++index) {
    progress(test.set.name, static_cast<int32_t>(index), static_cast<int32_t>(test.items.size()));
    std::optional<SkipPrompt> own;
    if (options.own) {
      const Tokens& prompt = test.items[index].prompt;
      const auto tokens = std::min<ptrdiff_t>(options.own_tokens, static_cast<ptrdiff_t>(prompt.size()));
      ASSIGN_OR_RETURN(own, ProfileText(model, {test.set.name, {prompt.end() - tokens, prompt.end()}}, options.rows));
      answers.Forget();
    }
    std::vector<SkipWay> ways = {{.method = "whole"}};
    const SkipOrders orders = OrdersFor(result->layers, all, task, own ? &*own : nullptr, *entropy);
    for (SkipWay& way : WaysFor(orders, options.ways, result->layers)) ways.push_back(std::move(way));
    for (size_t w = 0; w < ways.size(); ++w) {
      WayCost cost;
      ASSIGN_OR_RETURN(const bool right, answers.Ask(index, ways[w], &cost));
      tally.Note(w, ways[w], right, cost);
    }
  }
  result->quality.tests.push_back({test.set.name, test.set.what, test.set.chance});
  for (TestSample& sample : tally.Take()) result->quality.test_samples.push_back(std::move(sample));
  return absl::OkStatus();
}

}  // namespace interlace
