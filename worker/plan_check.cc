#include "worker/plan_check.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace interlace {
namespace {

constexpr int64_t kMostBlocks = int64_t{1} << 24;  // of one sequence

bool NamesFit(const std::optional<SealedNames>& names) {
  return !names || (names->first >= 0 && names->first + static_cast<int64_t>(names->ids.size()) <= kMostBlocks);
}

std::string WhyRefused(const ScoreAsk& score, int32_t rows, int32_t vocab) {
  if (score.first < 0 || score.first >= rows) return absl::StrCat("score.first: ", score.first, " of ", rows, " rows");
  if (score.targets.empty() || static_cast<int64_t>(score.targets.size()) > rows - score.first) {
    return absl::StrCat("score.targets: ", score.targets.size(), " from row ", score.first, " of ", rows);
  }
  if (score.top < 0 || score.top > kMostLogprobs) {
    return absl::StrCat("score.top: ", score.top, " is not 0 to ", kMostLogprobs);
  }
  for (const int32_t target : score.targets) {
    if (target < 0 || target >= vocab) {
      return absl::StrCat("score.targets: ", target, " is outside the vocabulary of ", vocab);
    }
  }
  return std::string();
}

std::string WhyRankDraftsRefused(const PlanSequence& s, const PlanLimits& limits) {
  const absl::string_view field = s.model_drafts ? "model_drafts: " : "own_drafts: ";
  if (s.model_drafts && s.own_drafts) return absl::StrCat(field, "goes with no own_drafts");
  if (!limits.whole_model) return absl::StrCat(field, "the rank holds a part of the model alone");
  if (s.model_drafts && !limits.draft_model) {
    return absl::StrCat(field, "the rank has no draft model; give it engine.draft_model");
  }
  const int32_t least = s.model_drafts ? 0 : 1;
  if (!s.sample || s.drafts != static_cast<int32_t>(s.tokens.size()) - 1 || s.drafts < least) {
    return absl::StrCat(field, s.drafts, " of ", s.tokens.size(), " tokens, where all but one are drafts");
  }
  for (size_t i = 1; i < s.tokens.size(); ++i) {
    if (s.tokens[i] != kOwnDraft) return absl::StrCat(field, "token ", s.tokens[i], " is given");
  }
  return std::string();
}

// Its rows are the newest token's, and what it passes over is asked of ranks that make the whole of it.
std::string WhySkipRefused(const PlanSequence& s, const PlanLimits& limits) {
  if (!limits.whole_model) return "skip: the rank holds a part of the model alone";
  if (s.rank_drafts() || s.score || s.key || s.pool != Pooling::kNone) {
    return "skip: goes with no guesses, scores, keys or sums of hidden states";
  }
  return std::string();
}

std::string WhyRefused(const Sampling& sampling, int32_t vocab) {
  const auto known = [vocab](int32_t token) { return token >= 0 && token < vocab; };
  const auto outside = [vocab](absl::string_view field) {
    return absl::StrCat("sampling.", field, ": a token is outside the vocabulary of ", vocab);
  };
  if (sampling.logprobs > kMostLogprobs) {
    return absl::StrCat("sampling.logprobs: ", sampling.logprobs, " is more than ", kMostLogprobs);
  }
  if (!absl::c_all_of(sampling.end_tokens, known)) return outside("end_tokens");
  for (const LogitBias& b : sampling.logit_bias) {
    if (!known(b.token)) return outside("logit_bias");
  }
  for (const std::vector<int32_t>& word : sampling.bad_words) {
    if (word.empty()) return "sampling.bad_words: one of them is empty";
    if (!absl::c_all_of(word, known)) return outside("bad_words");
  }
  if (!absl::c_all_of(sampling.allowed_tokens, known)) return outside("allowed_tokens");
  if (sampling.constraint && !absl::c_all_of(sampling.constraint->end_tokens, known)) {
    return outside("constraint.end_tokens");
  }
  return std::string();
}

absl::Status CheckCuts(const StepPlan& plan, const PlanLimits& limits) {
  if (plan.row_ranks() > limits.sequence_ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "plan ", Value(plan.id), ": row_cuts: ", plan.row_ranks(), " ranks divide its rows, and the stage has ",
        limits.sequence_ranks, " that can; give ranks and coordinator the same cluster.sequence_ranks"));
  }
  int32_t before = 0;
  for (const int32_t cut : plan.row_cuts) {
    if (cut < before || cut > plan.tokens()) {
      return absl::InvalidArgumentError(absl::StrCat("plan ", Value(plan.id), ": row_cuts: ", cut, " behind ", before,
                                                     " in a step of ", plan.tokens(), " rows"));
    }
    before = cut;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPlan(const StepPlan& plan, const PlanLimits& limits) {
  const auto broken = [&plan](auto&&... why) {
    return absl::InvalidArgumentError(absl::StrCat("plan ", Value(plan.id), ": ", why...));
  };
  int64_t samples = 0;
  absl::flat_hash_set<RequestId> seen;
  for (const PlanSequence& s : plan.sequences) {
    if (!seen.insert(s.request).second) return broken("request ", Value(s.request), " runs twice");
    if (s.tokens.empty()) return broken("request ", Value(s.request), " runs without tokens");
    if (!NamesFit(s.names)) return broken("request ", Value(s.request), " names blocks from ", s.names->first, " on");
    if (s.sample) samples += 1 + std::max<int64_t>(0, s.drafts);
  }
  for (const SequenceChange& c : plan.changes) {
    if (!NamesFit(c.names)) return broken("request ", Value(c.request), " names blocks from ", c.names->first, " on");
  }
  for (const Release& r : plan.releases) {
    if (!NamesFit(r.names)) return broken("request ", Value(r.request), " names blocks from ", r.names->first, " on");
  }
  if (plan.tokens() > limits.max_tokens) {
    return broken(plan.tokens(), " tokens, and this rank takes ", limits.max_tokens,
                  "; give ranks and coordinator the same sched.step_tokens");
  }
  if (samples > limits.max_samples) {
    return broken(samples, " rows sample, and this rank takes ", limits.max_samples,
                  "; give ranks and coordinator the same sched.max_running");
  }
  return CheckCuts(plan, limits);
}

std::string WhyRefused(const PlanSequence& s, const PlanLimits& limits) {
  const auto known = [&limits](int32_t token) { return token >= 0 && token < limits.vocab; };
  const auto outside = [&limits](absl::string_view field, int32_t token) {
    return absl::StrCat(field, ": ", token, " is outside the vocabulary of ", limits.vocab);
  };
  if (s.start < 0) return absl::StrCat("start: ", s.start, " is negative");
  if (s.rank_drafts()) {
    if (std::string why = WhyRankDraftsRefused(s, limits); !why.empty()) return why;
  }
  if (s.skip) {
    if (std::string why = WhySkipRefused(s, limits); !why.empty()) return why;
  }
  for (size_t i = 0; i < s.tokens.size(); ++i) {
    if (i > 0 && s.rank_drafts()) break;  // looked at above
    if (!known(s.tokens[i]) && !(i == 0 && s.tokens[0] == kLastSample)) return outside("tokens", s.tokens[i]);
  }
  const auto count = static_cast<int32_t>(s.tokens.size());
  if (s.drafts < 0 || s.drafts >= count) {
    return absl::StrCat("drafts: ", s.drafts, " of ", count, " tokens");
  }
  if (s.sample && (s.sample_index < 0 || s.sample_index >= s.start + count - s.drafts)) {
    return absl::StrCat("sample_index: ", s.sample_index, " with ", s.start + count - s.drafts, " tokens before it");
  }
  if (s.score) {
    if (std::string why = WhyRefused(*s.score, count, limits.vocab); !why.empty()) return why;
  }
  if (s.key && (s.key->first < 0 || Value(s.key->layer) < 0 || Value(s.key->layer) >= limits.layers)) {
    return absl::StrCat("key: of layer ", Value(s.key->layer), " from position ", s.key->first, " on; the model has ",
                        limits.layers, " layers");
  }
  if (!s.opening) return std::string();
  for (const int32_t token : s.opening->prefix) {
    if (!known(token)) return outside("opening.prefix", token);
  }
  if (const std::string& adapter = s.opening->adapter;
      !adapter.empty() && (limits.adapters == nullptr || limits.adapters->Find(adapter) == nullptr)) {
    return absl::StrCat("opening.adapter: this rank has none of digest ", adapter,
                        "; give ranks and coordinator the same model.adapters, or load it again");
  }
  return WhyRefused(s.opening->sampling, limits.vocab);
}

}  // namespace interlace
