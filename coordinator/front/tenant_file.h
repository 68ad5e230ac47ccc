// The file of API keys: who may ask at the doors, and how much. docs/http.md describes it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace interlace {

// SHA-256 of a key: keys themselves are not kept.
using KeyDigest = std::array<unsigned char, 32>;
KeyDigest DigestOf(absl::string_view key);
// Takes the same time wherever the two differ.
bool SameDigest(const KeyDigest& a, const KeyDigest& b);

// Of one tenant, over all its keys. 0: no limit.
struct TenantLimits {
  int64_t requests_per_minute = 0;
  int64_t tokens_per_minute = 0;         // of prompts and answers
  int64_t concurrent = 0;                // generations at a time
  std::optional<int32_t> best_priority;  // a request that asks for a lower number, which is earlier, gets this one
  std::vector<std::string> models;       // those it may ask for; empty: all
};

struct TenantRow {
  std::string name;
  bool is_operator = false;  // may look at everybody's requests, and speak for any tenant
  TenantLimits limits;
  std::vector<KeyDigest> keys;
};

// The rows of
//   {"tenants": [{"name": "acme", "keys": ["sk-1", "sha256:2c26..."], "requests_per_minute": 600,
//                 "tokens_per_minute": 100000, "concurrent": 16, "priority": 0, "models": ["small"]},
//                {"name": "ops", "keys": ["sk-2"], "operator": true}]}
// InvalidArgument names the tenant and the member at fault, and never shows a key.
absl::StatusOr<std::vector<TenantRow>> ParseTenants(absl::string_view text);

}  // namespace interlace
