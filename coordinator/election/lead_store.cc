#include "coordinator/election/lead_store.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace interlace {

const std::vector<LeadStoreRow>& LeadStores() {
  static const auto* table = new std::vector<LeadStoreRow>{
      {"none", nullptr},
      {"etcd", &MakeEtcdStore},
      {"kubernetes", &MakeKubernetesStore},
  };
  return *table;
}

absl::StatusOr<std::unique_ptr<LeadStore>> MakeLeadStore(const Config& config, Clock& clock) {
  for (const LeadStoreRow& row : LeadStores()) {
    if (row.name != config.election.backend) continue;
    if (row.make == nullptr) return nullptr;
    return row.make(config, clock);
  }
  const std::string known = absl::StrJoin(
      LeadStores(), ", ", [](std::string* out, const LeadStoreRow& row) { absl::StrAppend(out, row.name); });
  return absl::InvalidArgumentError(
      absl::StrCat("election.backend='", config.election.backend, "' is unknown; known: ", known));
}

}  // namespace interlace
