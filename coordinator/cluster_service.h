// ClusterService: the coordinator's end of the plan streams; forms the replica out of the ranks that register.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "coordinator/scheduler.h"
#include "proto/plan/step_plan.h"

namespace interlace {

class ReplicaLoop;
class RankStream;

// Callback service `Cluster`, and the PlanChannel of the replica. Owned by main; gRPC threads and the replica's thread.
// Reactions are quick: they convert and post. The trap: Connect before the server starts, Drain before it shuts down.
class ClusterService final : public PlanChannel {
 public:
  struct Options {
    int32_t stages = 1;
    std::string model_digest;
    int32_t block_tokens = 16;
  };
  explicit ClusterService(const Options& options);
  ~ClusterService() override;

  // Where results and changes of membership go; outlives the service's streams.
  void Connect(ReplicaLoop* loop);
  // To register with the ServerBuilder; valid as long as this object.
  grpc::Service* service();

  void Send(const StepPlan& plan) override;
  void Reset(const absl::Status& why) override;
  // Tells every rank that no more plans come, refuses new ones, and returns when every stream has ended.
  void Drain();

 private:
  friend class RankStream;
  class Service;
  // From streams, on gRPC threads.
  absl::Status OnRegister(RankStream* stream, const RankInfo& rank);
  absl::Status OnResult(RankStream* stream, StepResult result);
  void OnOpened();
  void OnGone(RankStream* stream);
  absl::Status CheckRank(const RankInfo& rank) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FormIfComplete() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  std::unique_ptr<Service> service_;
  ReplicaLoop* loop_ = nullptr;
  absl::Mutex mutex_;
  struct Member {
    RankStream* stream;
    RankInfo rank;
  };
  std::map<int32_t, Member> members_;  // by stage; protected by mutex_
  uint64_t epoch_ = 0;                 // protected by mutex_
  bool formed_ = false;                // protected by mutex_
  bool draining_ = false;              // protected by mutex_
  int streams_ = 0;                    // protected by mutex_; open ones
};

}  // namespace interlace
