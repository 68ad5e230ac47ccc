// ReplicaSet: the replicas of a coordinator, and the router over them.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/kv_fan_out.h"
#include "coordinator/replica_loop.h"
#include "coordinator/router/router.h"

namespace interlace {

// A loop for each replica; with several, the router that makes one engine of them, what it knows of their blocks, and
// the thread that finds a new place for requests of replicas that were lost. With one there is its loop and nothing
// else. Owned by main; any thread.
class ReplicaSet {
 public:
  struct Options {
    ReplicaLoop::Options loop;  // of each
    const Policy* policy = nullptr;
    const RoutingPolicy* routing = nullptr;
    std::vector<ReplicaRole> roles;  // of each; empty: each does both
  };
  // Of a replica. They outlive this object, as the others do.
  struct Member {
    PlanChannel* channel = nullptr;
    KvObserver* observer = nullptr;  // null: nobody else is told where its blocks lie
  };
  ReplicaSet(const Options& options, const std::vector<Member>& members, Clock& clock, Metrics& metrics);
  ~ReplicaSet();

  Engine& engine();
  ReplicaLoop& loop(int32_t replica) { return *loops_[static_cast<size_t>(replica)]; }
  // What the cost models of all have learned. Unavailable: a loop did not answer in time.
  absl::StatusOr<LearnedCosts> Learned();
  // This coordinator leads from now on: requests that lose their replica go on at another. `drained`: which replicas
  // the leader before it had drained.
  void Lead(const std::vector<int32_t>& drained);
  // Those that are, by number.
  std::vector<int32_t> Drained();
  // Another one does: each request that is here ends with `why`, which is Unavailable.
  void Follow(const absl::Status& why);

 private:
  void Run();
  void Wake();

  Clock& clock_;
  absl::Mutex mutex_;
  bool awake_ = false;                             // protected by mutex_: the router has something to settle
  bool stop_ = false;                              // protected by mutex_
  std::vector<std::unique_ptr<Metrics>> metrics_;  // of each replica, where there are several
  std::unique_ptr<PrefixDirectory> directory_;     // null: there is one replica
  std::vector<std::unique_ptr<KvFanOut>> told_;    // to the directory and to the member's observer
  std::unique_ptr<Router> router_;                 // null: there is one replica
  std::vector<std::unique_ptr<ReplicaLoop>> loops_;
  Thread settling_;
};

}  // namespace interlace
