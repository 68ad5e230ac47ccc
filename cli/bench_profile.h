// Where the time of a step goes: per op, per layer, and outside kernels.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "cli/bench_ops.h"

namespace interlace {

// Sums over the steps of one run. A layer is found by its place among the calls: every layer makes the same calls.
struct StepProfile {
  struct Op {
    OpKind kind;
    int64_t calls = 0;
    absl::Duration time;
  };
  int steps = 0;
  absl::Duration total;
  absl::Duration kernels;  // of total
  std::vector<Op> ops;     // those that ran, most time first
  absl::Duration embedding;
  std::vector<absl::Duration> layers;  // empty if the calls do not repeat evenly
  absl::Duration head;                 // last norm and logits
  absl::Duration sampler;
};

// `calls` of consecutive steps of a model of `layers` layers; the last of them took `step_times`, those before do not
// count.
StepProfile SummariseCalls(absl::Span<const OpCall> calls, absl::Span<const absl::Duration> step_times, int32_t layers);

// Two tables: ops, and the way of a token.
std::string ProfileTables(const StepProfile& profile);

}  // namespace interlace
