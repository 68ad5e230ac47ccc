#include "kvstore/tier/tiers.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace interlace {
namespace {

struct TierEntry {
  absl::string_view name;
  absl::StatusOr<std::unique_ptr<KvTier>> (*make)(const TierOptions&);
};

constexpr TierEntry kTiers[] = {
    {"remote", &MakeRemoteTier},
    {"rocksdb", &MakeRocksdbTier},
};

}  // namespace

std::vector<absl::string_view> TierNames() {
  std::vector<absl::string_view> names;
  for (const TierEntry& tier : kTiers) names.push_back(tier.name);
  return names;
}

absl::StatusOr<std::vector<std::string>> ParseTierNames(absl::string_view tiers) {
  std::vector<std::string> names;
  if (tiers.empty() || tiers == "none") return names;
  const std::vector<absl::string_view> known = TierNames();
  for (absl::string_view name : absl::StrSplit(tiers, ',')) {
    const auto refused = [&](absl::string_view why) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv.tiers='", tiers, "': ", why, "; known: ", absl::StrJoin(known, ", "), ", or none"));
    };
    if (name.empty()) return refused("an entry is empty");
    if (name == "host") return refused("host memory is no tier, kv.host_bytes alone gives it");
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return refused(absl::StrCat("no tier is called '", name, "'"));
    }
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      return refused(absl::StrCat("'", name, "' stands twice"));
    }
    names.emplace_back(name);
  }
  return names;
}

absl::StatusOr<std::unique_ptr<KvTier>> MakeTier(absl::string_view name, const TierOptions& options) {
  for (const TierEntry& tier : kTiers) {
    if (tier.name == name) return tier.make(options);
  }
  return absl::NotFoundError(absl::StrCat("no tier is called '", name, "'; known: ", absl::StrJoin(TierNames(), ", ")));
}

}  // namespace interlace
