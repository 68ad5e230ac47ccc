// How far a drain has got, as /debug/drain tells; pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace interlace {

// Of one of several replicas.
struct ReplicaProgress {
  bool draining = false;
  int64_t left = 0;  // requests that are there and have not ended
};

struct DrainProgress {
  bool draining = false;
  bool stopping = false;  // the process ends behind it
  int64_t left = 0;       // requests that have not ended
  int64_t cut = 0;        // requests that timeouts have ended since the server began
  std::optional<absl::Duration> until_cut;
  std::vector<ReplicaProgress> replicas;  // of several, by number
};

// InvalidArgument: it is something else.
absl::StatusOr<DrainProgress> ParseDrainProgress(absl::string_view json);

// One line: "draining: 3 requests left, cut in 12 s".
std::string DrainLine(const DrainProgress& progress);
// "replica 1: draining, 3 requests left".
std::string ReplicaLine(size_t number, const ReplicaProgress& replica);

}  // namespace interlace
