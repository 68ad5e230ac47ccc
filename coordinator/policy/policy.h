// Policy: in which order requests are served, and what a step may hold. It proposes; the Scheduler decides.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/policy/step_view.h"

namespace interlace {

// A row of the table. Both are pure functions: what they answer depends on what they are given alone.
struct Policy {
  absl::string_view name;
  absl::string_view meaning;  // one line
  // The request's place in the order, lower first, seconds for most; asked for when it begins to wait, or to run.
  double (*key)(const SequenceView& sequence, const CostModel& cost);
  StepDraft (*compose)(const StepView& view);
};

// The first is the default.
absl::Span<const Policy> Policies();
// NotFound lists the known names.
absl::StatusOr<const Policy*> FindPolicy(absl::string_view name);

}  // namespace interlace
