// Admission: what may be asked of a replica at all; pure.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/kv_placement.h"
#include "coordinator/replica_shape.h"
#include "coordinator/request.h"

namespace interlace {

struct AdmissionLimits {
  int32_t context = 0;  // tokens of the model
  int32_t max_waiting = 16384;
  absl::Duration max_queue_time = absl::InfiniteDuration();  // until one that comes now would start, by prediction
  KvPlacement::Options placement;
};

// Those who came before.
struct QueueAhead {
  int32_t waiting = 0;
  absl::Duration turnover;  // mean time from one start to the next; zero: not known
  // Until a request that comes now would start.
  absl::Duration time() const { return waiting * turnover; }
  // Until one that comes then is taken; zero: it is now.
  absl::Duration Room(const AdmissionLimits& limits) const {
    if (turnover <= absl::ZeroDuration()) return absl::ZeroDuration();
    const double most = std::min(std::floor(absl::FDivDuration(limits.max_queue_time, turnover)),
                                 static_cast<double>(limits.max_waiting) - 1);
    return std::max(0.0, waiting - most) * turnover;
  }
};

// Whether the request can run on a replica of this shape, with those of `ahead` before it. Lowers max_tokens to what
// context and, if the client named none, memory leave. InvalidArgument: a field is wrong. FailedPrecondition: it can
// never run here. ResourceExhausted: the queue is full, or would take too long.
absl::Status Admit(const ReplicaShape& shape, const AdmissionLimits& limits, const QueueAhead& ahead, Request* request);

}  // namespace interlace
