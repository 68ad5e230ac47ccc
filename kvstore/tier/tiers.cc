#include "kvstore/tier/tiers.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace interlace {
namespace {

struct TierEntry {
  absl::string_view name;
  absl::StatusOr<std::unique_ptr<KvTier>> (*make)(const TierOptions&);
};

constexpr TierEntry kTiers[] = {
    {"host", &MakeHostTier},
    {"remote", &MakeRemoteTier},
    {"rocksdb", &MakeRocksdbTier},
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> MakeTier(absl::string_view name, const TierOptions& options) {
  std::vector<absl::string_view> known;
  for (const TierEntry& tier : kTiers) {
    if (tier.name == name) return tier.make(options);
    known.push_back(tier.name);
  }
  return absl::NotFoundError(absl::StrCat("no tier is called '", name, "'; known: ", absl::StrJoin(known, ", ")));
}

}  // namespace interlace
