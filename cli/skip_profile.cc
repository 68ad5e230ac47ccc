#include "cli/skip_profile.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

constexpr size_t kFewestTokens = 8;

// Log probabilities of rows of logits, in place of them.
std::vector<float> LogSoftmax(absl::Span<const float> logits, int64_t vocab) {
  std::vector<float> out(logits.begin(), logits.end());
  for (size_t row = 0; row < out.size(); row += static_cast<size_t>(vocab)) {
    const auto begin = out.begin() + static_cast<ptrdiff_t>(row), end = begin + vocab;
    const float most = *std::max_element(begin, end);
    double sum = 0;
    for (auto it = begin; it != end; ++it) sum += std::exp(*it - most);
    const auto total = static_cast<float>(most + std::log(sum));
    for (auto it = begin; it != end; ++it) *it -= total;
  }
  return out;
}

struct Difference {
  double kl = 0, agreement = 0;
};

// KL(a || b), and how often both choose the same; means over rows of log probabilities.
Difference Compare(const std::vector<float>& a, const std::vector<float>& b, int64_t vocab) {
  Difference sum;
  const auto rows = static_cast<double>(a.size()) / static_cast<double>(vocab);
  for (size_t row = 0; row < a.size(); row += static_cast<size_t>(vocab)) {
    const float *p = a.data() + row, *q = b.data() + row;
    double kl = 0;
    for (int64_t i = 0; i < vocab; ++i) kl += std::exp(static_cast<double>(p[i])) * (p[i] - q[i]);
    sum.kl += std::max(0.0, kl) / rows;
    const bool same = std::max_element(p, p + vocab) - p == std::max_element(q, q + vocab) - q;
    sum.agreement += (same ? 1 : 0) / rows;
  }
  return sum;
}

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

class SkipProfiler {
 public:
  SkipProfiler(SkipModel& model, const SkipProfileOptions& options, Clock& clock)
      : model_(model), options_(options), clock_(clock), layers_(model.spec().layers) {}

  absl::StatusOr<SkipPrompt> Profile(const SkipText& text) {
    SkipPrompt prompt{text.task, static_cast<int32_t>(text.tokens.size()), {}, {}, {}};
    prompt.influence.resize(layers_);
    prompt.kl.assign(2 * static_cast<size_t>(layers_), 0);
    prompt.agreement.assign(2 * static_cast<size_t>(layers_), 1);
    model_.Run(0, text.tokens, [&](int32_t layer, const Tensor& before, const Tensor& after) {
      prompt.influence[layer] = 1 - MeanCosine(before, after);
    });
    const std::vector<int32_t> rows = RowsOf(prompt.tokens);
    const int64_t vocab = model_.spec().vocab;
    ASSIGN_OR_RETURN(absl::Span<const float> logits, model_.Logits(rows));
    const std::vector<float> whole = LogSoftmax(logits, vocab);
    for (int32_t s = 2; s < 2 * (layers_ - 1); ++s) {
      const std::vector<int32_t> alone = {s};
      model_.Run(0, text.tokens, PlanOf(alone, 1));
      ASSIGN_OR_RETURN(logits, model_.Logits(rows));
      const Difference difference = Compare(whole, LogSoftmax(logits, vocab), vocab);
      prompt.kl[s] = difference.kl;
      prompt.agreement[s] = difference.agreement;
    }
    return prompt;
  }

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
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  // Spread over the second half of the text, where a position has something before it.
  std::vector<int32_t> RowsOf(int32_t tokens) const {
    const int32_t first = tokens / 2, count = std::min(options_.rows, tokens - first);
    std::vector<int32_t> rows;
    for (int32_t i = 0; i < count; ++i) rows.push_back(first + i * (tokens - first) / count);
    return rows;
  }

  SkipModel& model_;
  const SkipProfileOptions options_;
  Clock& clock_;
  const int32_t layers_;
};

using Prompts = std::vector<const SkipPrompt*>;

// The calibration texts of each task, as indices, and those that are decoded.
struct Halves {
  std::map<std::string, std::vector<size_t>> calibration;
  std::vector<size_t> measured;
};

Halves HalvesOf(absl::Span<const SkipText> texts) {
  std::map<std::string, std::vector<size_t>> tasks;
  for (size_t i = 0; i < texts.size(); ++i) tasks[texts[i].task].push_back(i);
  Halves halves;
  for (const auto& [task, all] : tasks) {
    const size_t half = (all.size() + 1) / 2;
    halves.calibration[task].assign(all.begin(), all.begin() + static_cast<ptrdiff_t>(half));
    halves.measured.insert(halves.measured.end(),
                           all.size() > 1 ? all.begin() + static_cast<ptrdiff_t>(half) : all.begin(), all.end());
  }
  return halves;
}

// Every method's order of the inner sublayers for one text; "even" has none.
std::map<std::string, std::vector<int32_t>> OrdersFor(const SkipResult& result, const Halves& halves, size_t index,
                                                      Entropy& entropy) {
  Prompts all, task;
  for (const auto& [name, indices] : halves.calibration) {
    for (const size_t i : indices) all.push_back(&result.prompts[i]);
  }
  const SkipPrompt& own = result.prompts[index];
  for (const size_t i : halves.calibration.at(own.task)) task.push_back(&result.prompts[i]);
  const SkipPrompt* const alone = &own;
  std::vector<int32_t> shuffled = RankSublayers({&alone, 1}, result.layers);
  for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[entropy.Next() % i]);
  return {{"random", shuffled},
          {"static", RankSublayers(all, result.layers)},
          {"task", RankSublayers(task, result.layers)},
          {"own", RankSublayers({&alone, 1}, result.layers)}};
}

}  // namespace

absl::StatusOr<SkipResult> MeasureSkips(SkipModel& model, absl::Span<const SkipText> texts,
                                        const SkipProfileOptions& options, Clock& clock,
                                        const StudyProgress& progress) {
  for (const SkipText& text : texts) {
    if (text.tokens.size() >= kFewestTokens && text.tokens.size() <= SkipModel::kMostRows) continue;
    return absl::InvalidArgumentError(absl::StrCat("a text of task ", text.task, " has ", text.tokens.size(),
                                                   " tokens; from ", kFewestTokens, " to ", SkipModel::kMostRows,
                                                   " can be measured"));
  }
  SkipProfiler profiler(model, options, clock);
  SkipResult result{.layers = model.spec().layers, .depth = options.depth, .prompts = {}, .drafts = {}};
  const Halves halves = HalvesOf(texts);
  const auto steps = static_cast<int>(texts.size() + halves.measured.size());
  int done = 0;
  for (const SkipText& text : texts) {
    progress(absl::StrCat("profile, ", text.task), done++, steps);
    ASSIGN_OR_RETURN(result.prompts.emplace_back(), profiler.Profile(text));
  }
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(options.seed);
  const int32_t inner = 2 * (result.layers - 2);
  for (const size_t index : halves.measured) {
    const SkipText& text = texts[index];
    progress(absl::StrCat("drafts, ", text.task), done++, steps);
    const auto orders = OrdersFor(result, halves, index, *entropy);
    for (const double share : options.shares) {
      const auto passed = static_cast<int32_t>(std::lround(share * inner));
      for (const char* method : kSkipMethods) {
        SkipDrafts drafts{.method = method, .task = text.task, .passed = passed, .tried = {}, .right = {}};
        const auto order = orders.find(method);
        const SkipPlan plan =
            order == orders.end() ? SkipPlan::Evenly(passed, result.layers) : PlanOf(order->second, passed);
        ASSIGN_OR_RETURN(const std::vector<int32_t> plain, profiler.DecodePlainly(text, &drafts.plain_seconds));
        RETURN_IF_ERROR(profiler.DecodeWithDrafts(text, plan, plain, &drafts));
        result.drafts.push_back(std::move(drafts));
      }
    }
  }
  return result;
}

}  // namespace interlace
