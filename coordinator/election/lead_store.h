// LeadStore: where the record of the leader lies, and the table of the engines that keep it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/clock.h"
#include "common/config.h"
#include "coordinator/election/lead_record.h"

namespace interlace {

// One record under one name, in an engine that agrees on it among several machines. Owned by Candidacy; called by the
// election's thread alone. Calls return within about `within`. The trap: of a write that ended with another error than
// Aborted nobody knows whether it took effect, or will.
class LeadStore {
 public:
  virtual ~LeadStore() = default;
  // The record as it was at some moment of the call; nothing: there is none. InvalidArgument: what lies there is no
  // record of ours, and is not touched.
  virtual absl::StatusOr<std::optional<StoredRecord>> Read(absl::Duration within) = 0;
  // In place of the record with this version; empty: only if there is none. The version of what is written now.
  // Aborted: somebody else has written since.
  virtual absl::StatusOr<std::string> Write(const LeadRecord& record, const std::string& version,
                                            absl::Duration within) = 0;
};

// One row: a value of election.backend.
struct LeadStoreRow {
  absl::string_view name;
  absl::StatusOr<std::unique_ptr<LeadStore>> (*make)(const Config& config, Clock& clock);  // null: nothing is elected
};
const std::vector<LeadStoreRow>& LeadStores();

// That of election.backend; null of none: this coordinator leads alone. InvalidArgument names the field and the way
// out.
absl::StatusOr<std::unique_ptr<LeadStore>> MakeLeadStore(const Config& config, Clock& clock);

// Makers of the table's rows, each in a file of its own.
absl::StatusOr<std::unique_ptr<LeadStore>> MakeEtcdStore(const Config& config, Clock& clock);
absl::StatusOr<std::unique_ptr<LeadStore>> MakeKubernetesStore(const Config& config, Clock& clock);

}  // namespace interlace
