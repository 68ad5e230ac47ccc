// What passing sublayers over costs a model, prompt by prompt, what drafts by such plans gain, and what answers by them
// are worth: figures, tables, page.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "bench/study/skip_quality.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

// Sublayer 2 l is the attention of layer l, 2 l + 1 its feed-forward part. Those of the first and last layer are never
// passed over, and nothing is known of them but their influence.

// One prompt's profile, over positions of its text with the tokens that stand there.
struct SkipPrompt {
  std::string task;
  int32_t tokens = 0;
  std::vector<double> influence;  // [layers] 1 - cosine of the hidden states before and behind the layer, mean
  std::vector<double> kl;         // [2 layers] KL(whole || without the sublayer) of the next token, mean nats
  std::vector<double> agreement;  // [2 layers] share of positions whose first choice stays
};

// Greedy decoding of one prompt, drafts by one plan, verified by the whole model.
struct SkipDrafts {
  std::string method;  // how the plan was chosen: kSkipMethods
  std::string task;
  int32_t passed = 0;                 // sublayers
  std::vector<int64_t> tried, right;  // by depth: chains that were right so far, and of these, right here
  int64_t tokens = 0, steps = 0;
  int64_t wrong = 0;  // tokens that plain decoding does not give: none, or the verifier is broken
  double draft_seconds = 0, verify_seconds = 0;
  double plain_seconds = 0;  // of plain decoding of as many tokens, in the same round
};

// random: sublayers by chance; even: spread evenly; static: the least KL over the calibration prompts of all tasks;
// task: over those of the prompt's own task; own: on the prompt itself.
inline constexpr const char* kSkipMethods[] = {"random", "even", "static", "task", "own"};

struct SkipResult {
  int32_t layers = 0;
  int32_t depth = 0;  // guesses of each step
  std::vector<SkipPrompt> prompts;
  std::vector<SkipDrafts> drafts;
  SkipQuality quality;
};

// The sublayers between first and last layer, by mean KL over the prompts, least first. Requires: a prompt.
std::vector<int32_t> RankSublayers(absl::Span<const SkipPrompt* const> prompts, int32_t layers);
// Passes over the first `count` of `ranked`.
SkipPlan PlanOf(absl::Span<const int32_t> ranked, int32_t count);

// How much prompts differ in what their sublayers are worth: of log10(KL) of each sublayer, the variance about the
// task's mean, the variance of the tasks' means, and the mean rank correlation of pairs of prompts.
struct SkipVariation {
  double within = 0, between = 0;
  double same_task = 0, other_task = 0;  // Spearman; 0: no such pair
};
SkipVariation VariationOf(const SkipResult& result);
// Of two lists of equal length; ties share their mean rank.
double RankCorrelation(absl::Span<const double> a, absl::Span<const double> b);

// The drafts of a method with so many sublayers passed over, all prompts together.
struct SkipGain {
  std::string method;
  int32_t passed = 0;
  double acceptance = 0;  // of the first guess
  double tokens_per_step = 0;
  double speed = 0;              // tokens/s over plain decoding, as measured at `depth`
  int32_t best_depth = 0;        // by acceptance at each depth, and times of a pass and of a step; 0: plain decoding
  double best_speed = 1;         // what is expected there
  std::vector<double> by_depth;  // acceptance at each depth
  int64_t wrong = 0;
};
std::vector<SkipGain> GainsOf(const SkipResult& result);

// Cells, the first row the heading.
std::vector<std::vector<std::string>> SkipTable(const SkipResult& result);
std::string SkipJson(const SkipResult& result, const std::string& command);
std::string SkipPage(const SkipResult& result, const std::vector<std::pair<std::string, std::string>>& facts);

}  // namespace interlace
