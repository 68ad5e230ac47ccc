// Engine: what the front doors see of the scheduler.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/explanation.h"
#include "coordinator/request.h"
#include "coordinator/snapshot.h"
#include "kvstore/block_id.h"

namespace interlace {

// One of several replicas, as whoever takes it away looks at it.
struct ReplicaDrain {
  bool draining = false;  // it gets nothing new, and gives away what it has
  int32_t left = 0;       // requests that are there and have not ended
};

struct EngineLoad {
  int32_t ranks_ready = 0;
  int32_t ranks = 0;
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t parked = 0;         // of those who wait: they have had a token
  int32_t blocks_held = 0;    // block-sized pieces of device and host memory in use by requests
  int32_t blocks_cached = 0;  // sealed blocks that no request uses
  int32_t blocks = 0;
  bool draining = false;
  int32_t replicas_ready = 0;          // of several, those whose ranks are all there and that are not drained
  std::vector<ReplicaDrain> replicas;  // of several, by number
  std::set<std::string> running_adapters, waiting_adapters;  // names of adapters that requests use, by the requests
  // What a router asks of one replica.
  std::shared_ptr<const ChainSeed> names;  // by which it names blocks, without a salt; null: it is not formed
  double token_seconds = 0;                // of computing a token of a prompt; 0: not known, as below
  double host_block_seconds = 0;           // of bringing a block, all layers, from the host to the device
  bool shares_tier = false;                // it has a tier that other replicas reach, too
  double below_block_seconds = 0;          // of fetching a block from the tiers below
  absl::Duration turnover;                 // of late, mean time from one start to the next; zero: not known
  absl::Duration
      queue_room;  // until the queue, which is full, takes a request; zero: it does now, or that is not known
};

// Implemented by ReplicaLoop (coordinator/replica_loop.h), by a scripted fake in tests. Any thread.
// The trap: Submit answers OK before the request has run: what becomes of it arrives at its sink.
class Engine {
 public:
  virtual ~Engine() = default;
  // OK: the sink will get exactly one OnEnd. Otherwise the sink is never called: InvalidArgument (longer than the
  // context), FailedPrecondition (can never run on this replica; says which setting to raise), ResourceExhausted (queue
  // full), Unavailable (draining, or ranks are missing).
  virtual absl::Status Submit(Request request) = 0;
  // The client is gone: the request ends with Cancelled, its KV is freed. Unknown ids are ignored.
  virtual void Cancel(RequestId id) = 0;
  // The door has seen a stop string: the request ends with OK and kStop, its KV is freed. Unknown ids are ignored.
  virtual void Stop(RequestId id) = 0;
  // The request goes on elsewhere: it comes back by TokenSink::OnHandedOver with the tokens that its client has. `why`
  // as there. Unknown ids are ignored, and so is all by an engine that is not one of several replicas.
  virtual void HandOver(RequestId id, absl::Status why) {
    static_cast<void>(id);
    static_cast<void>(why);
  }
  // One of several replicas gets nothing new from now on, and its requests go on at the others, if there are any; or,
  // `drains` false, it is as the others again. InvalidArgument: there is no such replica.
  virtual absl::Status DrainReplica(int32_t replica, bool drains);
  // NotFound if the name is unknown or too old. The last 256 ended requests are kept.
  virtual absl::StatusOr<Explanation> Explain(absl::string_view name) = 0;
  // What the scheduler has right now. Unavailable if it does not answer in time.
  virtual absl::StatusOr<ReplicaSnapshot> Snapshot() = 0;
  virtual EngineLoad Load() = 0;
};

inline absl::Status Engine::DrainReplica(int32_t, bool) {
  return absl::InvalidArgumentError("replica: there is one; drain the server, without `replica`");
}

}  // namespace interlace
