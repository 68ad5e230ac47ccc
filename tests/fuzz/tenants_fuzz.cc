// Any bytes as a file of API keys: tenants that a table can be made of, or a refusal.
#include <cstdint>
#include <set>

#include "common/check.h"
#include "coordinator/front/tenant_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto rows = interlace::ParseTenants({reinterpret_cast<const char*>(data), size});
  if (!rows.ok()) {
    CHECK(absl::IsInvalidArgument(rows.status()));
    return 0;
  }
  std::set<std::string> names;
  std::set<interlace::KeyDigest> keys;
  for (const interlace::TenantRow& row : *rows) {
    CHECK(!row.name.empty() && names.insert(row.name).second && !row.keys.empty());
    for (const interlace::KeyDigest& key : row.keys) CHECK(keys.insert(key).second);
    const interlace::TenantLimits& limits = row.limits;
    CHECK(limits.requests_per_minute >= 0 && limits.tokens_per_minute >= 0 && limits.concurrent >= 0);
  }
  return 0;
}
