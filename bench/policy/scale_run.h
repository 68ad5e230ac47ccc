// Many replicas in one virtual time: the real Scheduler of each, plans executed by roofline arithmetic, and what
// decides in the real Router: its policies, its book of what replicas do, its directory of what they hold.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bench/policy/scale_load.h"
#include "bench/policy/scale_model.h"
#include "coordinator/policy/policy.h"
#include "coordinator/router/roles.h"
#include "coordinator/router/routing_policy.h"
#include "coordinator/scheduler.h"

namespace interlace {

struct ScaleSetup {
  ScaleModel model;
  ScaleDevice device;
  int32_t replicas = 1;
  const RoutingPolicy* route = nullptr;
  int32_t prefill = 0;        // the first so many replicas compute prompts, and the others decode; 0: all do both
  double tier_bandwidth = 0;  // bytes/s of each replica, each way, to a tier that all reach; 0: there is none
  const Policy* policy = nullptr;
  Scheduler::Options options;
  Targets targets;            // of every request
  int32_t block_tokens = 64;  // of a block of KV
  int32_t trace_block = 512;  // tokens of one hash id of the trace
};

// What was held of a prompt's beginning when it was routed first, in tokens of whole blocks, on its way counted as
// held.
struct ScalePrefix {
  int32_t anywhere = 0;  // by replicas together
  int32_t best = 0;      // by the one that held most
  int32_t here = 0;      // by the one that was chosen
  int32_t coming = 0;    // of these, on their way
};

// One request; times count from the start of the run.
struct ScaleRecord {
  absl::Duration due, first, last;  // arrival, first token, last token
  absl::Duration largest_gap;       // between two tokens
  int32_t replica = 0;
  int32_t prompt = 0, cached = 0, tokens = 0;  // cached: of the prompt
  int32_t known = 0;                           // as in ScaleLoad
  ScalePrefix prefix;
  bool handed = false;  // its answer was made elsewhere than its first token
  bool ok = false;
};

struct ScaleOutcome {
  std::vector<ScaleRecord> records;
  absl::Duration elapsed;            // until the last end
  double parks = 0;                  // times that a running request was set aside
  double preemptions = 0;            // of these, or in place of these: times that one gave way to another
  double steps = 0;                  // of all replicas
  std::vector<double> busy_seconds;  // by replica: time in which steps were computed
  double stall_seconds = 0;          // likewise: in which they waited for KV from the host
};

// Ends when all requests have ended; `progress` is told now and then how many have been sent. FailedPrecondition if the
// model does not fit the device, or a request of the load no replica; InvalidArgument if prompts are to be computed
// apart without a tier, or by all.
absl::StatusOr<ScaleOutcome> RunAtScale(
    const ScaleSetup& setup, const ScaleLoad& load, absl::FunctionRef<void(size_t)> progress = [](size_t) {});

}  // namespace interlace
