// ClusterLook: what the doors of a running cluster tell, fetched once for `interlace status` and `interlace doctor`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/http_door.h"
#include "cli/metric_samples.h"
#include "coordinator/front/ui_json.h"

namespace interlace {

// A value.
struct ClusterLook {
  std::string url;
  std::string version;  // of the server
  std::string health;   // "ok", "draining", "waiting for ranks"
  int32_t ranks = 0, ranks_ready = 0;
  std::string model;                         // empty: none can be served now
  int32_t context = 0;                       // tokens
  absl::Status state_known;                  // not OK: there is no state, and why
  UiState state;                             // of /ui/state
  absl::Status metrics_known;                // likewise
  MetricSamples metrics;                     // of /metrics
  std::optional<absl::Duration> clock_skew;  // the server's date minus ours, to a second; none: it gave none
  absl::Duration round_trip;                 // of the quickest question
};

// Unavailable: nobody answers there. What one door alone does not tell (no key, http.ui=false) is left out.
absl::StatusOr<ClusterLook> LookAtCluster(const HttpDoor& door);

}  // namespace interlace
