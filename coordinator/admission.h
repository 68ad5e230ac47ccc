// Admission: what may be asked of a replica at all; pure.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "coordinator/kv_placement.h"
#include "coordinator/replica_shape.h"
#include "coordinator/request.h"

namespace interlace {

struct AdmissionLimits {
  int32_t context = 0;  // tokens of the model
  int32_t max_waiting = 256;
  KvPlacement::Options placement;
};

// Whether the request can run on a replica of this shape, with `waiting` requests before it. Lowers max_tokens to what
// context and, if the client named none, memory leave. InvalidArgument: a field is wrong. FailedPrecondition: it can
// never run here. ResourceExhausted: the queue is full.
absl::Status Admit(const ReplicaShape& shape, const AdmissionLimits& limits, int32_t waiting, Request* request);

}  // namespace interlace
