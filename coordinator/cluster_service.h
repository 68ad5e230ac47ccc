// ClusterService: the coordinator's end of the ranks' streams and plan links; forms the replica out of those that
// register.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/liveness.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "common/transport.h"
#include "coordinator/plan_links.h"
#include "coordinator/scheduler.h"
#include "proto/cluster.pb.h"
#include "proto/plan/step_plan.h"

namespace interlace {

class ReplicaLoop;
class RankStream;

// Callback service `Cluster`, and the PlanChannel of the replica. Owned by main; threads of gRPC, of the plan links and
// the replica's. Reactions are quick: they convert and post. Connect before the server starts, Drain before it shuts
// down.
// A rank that registers is a candidate until it has shown on its plan link that the session is its own, and then a
// member: a registration that was recorded and is sent again changes nothing. A member counts as gone when its
// stream or its link ends, which ends the other too, or when its stream has been silent for Options::liveness.silence.
// A candidate for a stage that is held takes the place of the holder, which is its own former self (or somebody's
// mistake: the one that was put out may not come back while the newer one holds the stage).
// No call leaves this class under its lock: what a reaction decides is queued under it and carried out after it, in the
// order of the decisions.
class ClusterService final : public PlanChannel {
 public:
  struct Options {
    int32_t stages = 1;
    std::string model_digest;
    int32_t block_tokens = 16;
    uint64_t first_epoch = 1;  // main gives one that grows from start to start, so that ranks tell a new coordinator's
    Liveness::Options liveness;
    absl::Duration register_within = absl::Seconds(5);  // of the stream, and to confirm, of the plan link
  };
  // `transport` outlives this object, and nothing else listens on its result channel.
  ClusterService(const Options& options, Transport& transport, Clock& clock, Metrics& metrics);
  ~ClusterService() override;

  // Where results and changes of membership go; outlives the service's streams.
  void Connect(ReplicaLoop* loop);
  // To register with the ServerBuilder; valid as long as this object.
  grpc::Service* service();

  void Send(const StepPlan& plan) override;
  void Reset(const absl::Status& why) override;
  // Tells every rank that no more plans come, refuses new ones, and returns when every stream has ended.
  void Drain();
  // Heartbeats to whom nothing was said, ends of streams that are silent. Called by the service's own thread; returns
  // when there is something to do next.
  absl::Time Watch();

 private:
  friend class RankStream;
  class Service;
  struct Stream {
    std::shared_ptr<RankStream> stream;
    Liveness liveness;
    absl::Time opened;
    int32_t stage = -1;                                 // of a member
    std::string session;                                // with which it registered
    absl::Time confirm_until = absl::InfiniteFuture();  // of a candidate whose link is there
    LinkId link{};                                      // of a candidate or member; else 0
    std::optional<RankInfo> claim;                      // of a candidate
  };
  struct Member {
    RankStream* stream;
    RankInfo rank;
  };
  using Action = absl::AnyInvocable<void()>;

  // From streams, on gRPC threads.
  void OnOpened(std::shared_ptr<RankStream> stream);
  void OnHeard(RankStream* stream);
  void OnHeartbeat(RankStream* stream, const v1::Heartbeat& heartbeat);
  absl::Status OnRegister(RankStream* stream, const RankInfo& rank, const std::string& session);
  void OnGone(RankStream* stream);
  // From plan links, on threads of theirs and of the transport.
  void OnLinked(LinkId id, const absl::Status& status);
  void OnLinkLost(LinkId id, const absl::Status& why);
  void OnResult(LinkId id, absl::string_view bytes);
  void OnConfirmed(LinkId id);

  void Run();
  // The stream whose link it is; null if it is gone.
  Stream* FindStream(LinkId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckClaim(const RankInfo& rank) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckIncarnation(const RankInfo& rank) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MakeMember(Stream& stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FormIfComplete() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The member's stream is closed, or abandoned if nothing can be said to it any more.
  void Remove(int32_t stage, const absl::Status& why, bool abandon) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The stream is over, and so is its link: the rank is told, or not.
  void Dismiss(Stream& stream, const absl::Status& why, bool abandon) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSession(const RankStream* stream, const std::string& session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Order(const Member& member, SharedBytes order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Do(Action action) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { actions_.push_back(std::move(action)); }
  void CarryOut() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  Clock& clock_;
  Metrics& metrics_;
  const Metrics::Counter replayed_, unconfirmed_;  // registrations
  std::unique_ptr<Service> service_;
  ReplicaLoop* loop_ = nullptr;
  absl::Mutex mutex_;
  std::map<RankStream*, Stream> streams_;         // open ones; protected by mutex_, as everything below
  std::map<int32_t, Member> members_;             // by stage
  std::map<int32_t, std::set<uint64_t>> former_;  // incarnations put out by a newer one, by stage
  std::map<int32_t, std::pair<uint64_t, RefusalCounts>> refused_;  // by stage: incarnation, and what it has said
  std::deque<Action> actions_;
  bool acting_ = false;
  uint64_t epoch_;  // of the next forming
  bool formed_ = false;
  bool draining_ = false;
  bool stopping_ = false;
  uint64_t last_link_ = 0;
  PlanLinks links_;
  Thread watch_;
};

}  // namespace interlace
