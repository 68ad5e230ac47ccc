// SchedulingPolicy: the order in which requests are served. It proposes; the Scheduler decides.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/ids.h"

namespace interlace {

// What a policy may look at; none of it changes while a request lives.
struct RequestView {
  RequestId request{};
  absl::Time arrival;
  absl::Time deadline;
};

// A strict order: true if `a` is served before `b`. A pure function.
using SchedulingPolicy = bool (*)(const RequestView& a, const RequestView& b);

// The table of policies: "fcfs". NotFound lists the known names.
absl::StatusOr<SchedulingPolicy> FindPolicy(absl::string_view name);

// First come, first served; of those that came at once, the lower id.
bool FcfsBefore(const RequestView& a, const RequestView& b);

}  // namespace interlace
