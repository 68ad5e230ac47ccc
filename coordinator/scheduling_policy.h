// SchedulingPolicy: the order in which requests are served. It proposes; the Scheduler decides.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/ids.h"

namespace interlace {

// What a policy may look at.
struct SequenceView {
  RequestId request{};
  absl::Time arrival;
  absl::Time deadline;
  int32_t remaining = 0;  // positions that wait to be computed; 1: decoding
};

// Stateless: the same input gives the same answer. Owned by the Scheduler; thread: the replica's.
class SchedulingPolicy {
 public:
  virtual ~SchedulingPolicy() = default;
  // A permutation of the indices of `sequences`, first served first.
  virtual std::vector<size_t> Order(absl::Span<const SequenceView> sequences) const = 0;
};

// The table of policies: "fcfs". NotFound lists the known names.
absl::StatusOr<std::unique_ptr<SchedulingPolicy>> MakePolicy(absl::string_view name);

std::unique_ptr<SchedulingPolicy> MakeFcfs();

}  // namespace interlace
