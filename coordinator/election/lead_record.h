// LeadRecord: what the coordinators of a cluster keep in one place to say which of them leads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace interlace {

// A value. It holds no time of day: whoever reads it counts by its own clock how long it has not changed.
struct LeadRecord {
  uint64_t epoch = 0;            // grows with each change of leader; what ranks refuse older ones by
  std::string holder;            // a coordinator process; empty: the last one gave the lead back
  uint64_t renewals = 0;         // by this holder, so that each write changes the record
  absl::Duration lease;          // who sees the record unchanged for so long may take the lead
  std::string http, grpc;        // HOST:PORT of the holder's doors
  std::vector<int32_t> drained;  // replicas that get no requests; each leader takes them over from the one before
  friend bool operator==(const LeadRecord&, const LeadRecord&) = default;
};

// A JSON object of one line.
std::string EncodeLeadRecord(const LeadRecord& record);
// InvalidArgument: that is no record of ours. Members that are not known are left alone.
absl::StatusOr<LeadRecord> DecodeLeadRecord(absl::string_view text);

// With the store's own name for this state of the record. The trap: versions are compared for equality alone.
struct StoredRecord {
  LeadRecord record;
  std::string version;
  friend bool operator==(const StoredRecord&, const StoredRecord&) = default;
};

}  // namespace interlace
