// SkipScope: whose prompts a skip index compares with each other.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <utility>

namespace interlace {

// A digest of all that a prompt's key, or how well a plan serves it, depends on besides its tokens, and of who may
// learn from whom. Prompts of two scopes never meet.
struct SkipScope {
  uint64_t high = 0;
  uint64_t low = 0;
  friend auto operator<=>(const SkipScope&, const SkipScope&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const SkipScope& scope) {
    return H::combine(std::move(h), scope.high, scope.low);
  }
};

struct SkipScopeFields {
  std::string model_digest;
  std::string numerics;  // of the ranks: backend and op table
  int32_t layer = 0;     // behind which keys are taken
  std::string adapter;   // empty: none
  std::string chat_template;
  std::string tenant;
  std::string salt;  // of the tenant
};

// Fields that differ anywhere give other scopes (BLAKE2b-128 over fields with their lengths).
SkipScope ScopeOf(const SkipScopeFields& fields);

}  // namespace interlace
