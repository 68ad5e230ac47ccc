// DrainGate: an Engine that can be closed for new requests while those that run go on.
#pragma once

#include <memory>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/engine.h"

namespace interlace {

// How far a drain has got.
struct DrainState {
  bool draining = false;
  bool stopping = false;                    // for good: the process ends behind it
  int32_t left = 0;                         // requests that have not ended
  int64_t cut = 0;                          // requests that timeouts have ended since the process began
  std::optional<absl::Duration> until_cut;  // none: what runs is waited for however long it takes
};

// Stands between the doors and what serves them. Closed, it refuses new requests with Unavailable; what is left when
// the drain's timeout is over is cancelled, and its sink is told Unavailable with the code server_stopping, so that
// every door ends it as its protocol ends what failed. Owned by main, above the engine; any thread. The traps: the
// engine must outlive it; a request that follows (a later choice of what runs) is let in until the timeout is over.
class DrainGate final : public Engine {
 public:
  DrainGate(Engine& engine, Clock& clock, Metrics& metrics);
  ~DrainGate() override;  // cuts nothing

  absl::Status Submit(Request request) override;
  void Cancel(RequestId id) override { engine_.Cancel(id); }
  void Stop(RequestId id) override { engine_.Stop(id); }
  absl::Status DrainReplica(int32_t replica, bool drains) override { return engine_.DrainReplica(replica, drains); }
  absl::StatusOr<Explanation> Explain(absl::string_view name) override { return engine_.Explain(name); }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override;
  EngineLoad Load() override;

  // Closes; `timeout` counts from now and takes the place of an earlier one. Infinite: nothing is cut.
  // FailedPrecondition: the process stops, which has a timeout of its own.
  absl::Status Close(absl::Duration timeout);
  // Opens again. FailedPrecondition: the process stops.
  absl::Status Open();
  // Closes for good. Returns when nothing is left, or a few seconds after what was left at `timeout` was cut. True iff
  // nothing was cut.
  bool CloseForGood(absl::Duration timeout);
  DrainState state() const;

 private:
  class Passage;
  // The requests that came through and have not ended. Their sinks hold it, since they may outlive the gate.
  struct Ledger {
    mutable absl::Mutex mutex;
    absl::flat_hash_map<RequestId, bool> left;  // protected by mutex; true: it was cut
  };

  void CloseUntil(absl::Time cut_at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(ledger_->mutex);
  absl::Status Refusal() const;
  void Run();
  void Cut();

  Engine& engine_;
  Clock& clock_;
  const Metrics::Gauge draining_metric_;
  const Metrics::Counter cut_metric_;
  const std::shared_ptr<Ledger> ledger_ = std::make_shared<Ledger>();
  // Protected by the ledger's mutex.
  bool closed_ = false;
  bool for_good_ = false;
  bool over_ = false;  // the timeout is: nothing comes in any more, what follows included
  absl::Time cut_at_ = absl::InfiniteFuture();
  uint64_t changes_ = 0;  // of cut_at_
  int64_t cut_ = 0;
  bool end_ = false;  // the gate dies

  Thread thread_;  // cuts
};

}  // namespace interlace
