// SkipAdvice: what a stream drafts by; SkipOutcome: what came of it. Values.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "coordinator/skip_index/skip_scope.h"
#include "proto/plan/skip_plan.h"

namespace interlace {

enum class SkipSource : uint8_t {
  kStatic,  // the plan that served all prompts of the scope best; at first an evenly spread one
  kEntry,   // that of a prompt like this one
  kTrial,   // one that may turn out to be better
};
absl::string_view SkipSourceName(SkipSource source);  // "static", "entry", "trial"

// Of a model: the first and the last one are passed over by no plan, and of fewer nothing is left that could be.
inline constexpr int32_t kLeastSkipLayers = 3;

struct SkipAdvice {
  SkipSource source = SkipSource::kStatic;
  SkipPlan plan;
  SkipScope scope;
  uint64_t entry = 0;     // whose plan it is; 0: of none
  uint64_t search = 0;    // which tries it; 0: that of the whole scope
  float similarity = 0;   // to the entry's prompt, cosine
  float likeness = 0;     // 0: as any two prompts of the scope, 1: the same
  double acceptance = 0;  // the chance that a guess is right, as far as is known
  bool judged = false;    // it is known by guesses of the plan; else it is a hope
  bool explores() const { return source == SkipSource::kTrial; }
};

// What became of guesses by an advised plan, since the advice or since the last outcome that was told of it.
struct SkipOutcome {
  double tried = 0;  // guesses that were judged: those behind a wrong one were not
  double right = 0;
  double saved = 0;    // seconds, against steps without guesses; below zero: they cost time
  double seconds = 0;  // that the steps took
};

}  // namespace interlace
