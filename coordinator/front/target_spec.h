// TargetSpec: a request's targets as a client writes them; checked, and turned into the form that the scheduler takes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/targets.h"

namespace interlace {

// Names are those of the body's fields (docs/targets.md). Unset: the server's default.
struct TargetSpec {
  std::optional<double> ttft_ms, tpot_ms, largest_gap_ms;  // slo.*
  std::optional<double> deadline_ms;                       // from now; 0: it has passed
  std::optional<int64_t> priority;                         // lower is earlier
  std::optional<std::string> fairness_id;                  // the tenant
  std::string objective;                                   // by header alone
};

// InvalidArgument names the field and the value.
absl::Status CheckTargets(const TargetSpec& spec);

// InvalidArgument names `field` and the value. What CheckTargets and the readers of headers share.
absl::Status CheckTarget(absl::string_view field, double ms);
absl::Status CheckDeadline(absl::string_view field, double ms);
absl::Status CheckPriority(absl::string_view field, int64_t value);
absl::Status CheckLabel(absl::string_view field, absl::string_view value);  // a tenant, an objective

// Requires: a spec that CheckTargets found good.
Targets TargetsOf(const TargetSpec& spec, const Targets& defaults);

}  // namespace interlace
