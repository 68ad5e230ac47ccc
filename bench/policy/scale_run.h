// Many replicas in one virtual time: the real Scheduler of each, plans executed by roofline arithmetic, one router.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/policy/scale_load.h"
#include "bench/policy/scale_model.h"
#include "bench/policy/scale_route.h"
#include "coordinator/policy/policy.h"
#include "coordinator/scheduler.h"

namespace interlace {

struct ScaleSetup {
  ScaleModel model;
  ScaleDevice device;
  int32_t replicas = 1;
  RouteRule route = RouteRule::kPrefix;
  const Policy* policy = nullptr;
  Scheduler::Options options;
  Targets targets;            // of every request
  int32_t block_tokens = 64;  // of a block of KV
  int32_t trace_block = 512;  // tokens of one hash id of the trace
};

// One request; times count from the start of the run.
struct ScaleRecord {
  absl::Duration due, first, last;  // arrival, first token, last token
  absl::Duration largest_gap;       // between two tokens
  int32_t replica = 0;
  int32_t prompt = 0, cached = 0, tokens = 0;  // cached: of the prompt
  bool ok = false;
};

struct ScaleOutcome {
  std::vector<ScaleRecord> records;
  absl::Duration elapsed;    // until the last end
  double parks = 0;          // times that a running request was set aside
  double preemptions = 0;    // of these, or in place of these: times that one gave way to another
  double steps = 0;          // of all replicas
  double busy_seconds = 0;   // of all replicas: time in which steps were computed
  double stall_seconds = 0;  // likewise: in which they waited for KV from the host
};

// Ends when all requests have ended. FailedPrecondition if the model does not fit the device, or a request of the load
// no replica.
absl::StatusOr<ScaleOutcome> RunAtScale(const ScaleSetup& setup, const ScaleLoad& load);

}  // namespace interlace
