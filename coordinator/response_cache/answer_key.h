// AnswerKey: what an answer follows from, as digests; pure functions.
#pragma once

#include "absl/strings/string_view.h"
#include "coordinator/request.h"
#include "coordinator/skip_index/skip_scope.h"

namespace interlace {

struct AnswerKey {
  SkipScope scope;   // of everything but the prompt; prompts of two scopes are never compared
  SkipScope prompt;  // of everything
};

// Whose request it is (tenant and salt), the model, its adapter, each field of the sampling but the seed, which greedy
// decoding does not look at, the tokens that end it, the bound of its length, and what its door says (CacheTerms).
// Requires: request.caching.
//
// A bound that the client did not name follows from the length of the prompt, so it is part of `prompt` alone.
AnswerKey KeyOf(const Request& request, absl::string_view model_digest);

}  // namespace interlace
