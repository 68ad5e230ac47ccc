// ClusterService: the coordinator's end of the ranks' streams and plan links; forms replicas out of those that
// register.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/liveness.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "common/transport.h"
#include "coordinator/plan_links.h"
#include "coordinator/rank_adapters.h"
#include "coordinator/scheduler.h"
#include "proto/cluster.pb.h"
#include "proto/plan/step_plan.h"

namespace interlace {

class ReplicaLoop;
class RankStream;

// Callback service `Cluster`, and the PlanChannel of each replica. Owned by main; threads of gRPC, of the plan links
// and the replicas'. Reactions are quick: they convert and post. Connect before the server starts, Drain before it
// shuts down. A rank that registers is a candidate until it has shown on its plan link that the session is its own, and
// then a member: a registration that was recorded and is sent again changes nothing. A member counts as gone when its
// stream or its link ends, which ends the other too, or when its stream has been silent for Options::liveness.silence.
// A candidate for a place that is held takes it from the holder, which is its own former self (or somebody's mistake:
// the one that was put out may not come back while the newer one holds the place).
// No call leaves this class under its lock: what a reaction decides is queued under it and carried out after it, in the
// order of the decisions.
class ClusterService final : public RankAdapters {
 public:
  struct Options {
    int32_t replicas = 1;        // that there may be; each is formed when all its ranks are there
    int32_t stages = 1;          // of each
    int32_t tensor_ranks = 1;    // of each stage
    int32_t sequence_ranks = 1;  // likewise
    std::string model_digest;
    std::vector<std::string> adapters;  // RankInfo's
    bool runtime_adapters = false;      // ranks are told which others they are to have
    // A rank that came later cannot have an adapter that others have. Its replica is not formed before a list without
    // the adapter comes. It must not wait.
    std::function<void(const std::string& digest, const absl::Status& why)> adapter_failed;
    int32_t block_tokens = 16;
    bool draft_model = false;  // every rank must have one (sched.speculate=draft-model)
    uint64_t first_epoch = 1;  // main gives one that grows from start to start, so that ranks tell a new coordinator's
    // Whether it may act now; any thread. Once it says no, no order leaves, and Follow or Resume comes.
    std::function<bool()> leads = [] { return true; };
    Liveness::Options liveness;
    absl::Duration register_within = absl::Seconds(5);  // of the stream, and to confirm, of the plan link
  };
  // `transport` outlives this object, and nothing else listens on its result channel.
  ClusterService(const Options& options, Transport& transport, Clock& clock, Metrics& metrics);
  ~ClusterService() override;

  // Where plans of the replica go.
  PlanChannel& channel(int32_t replica);
  // Where its results and changes of membership go; outlives the service's streams. For each replica, before the server
  // starts.
  void Connect(int32_t replica, ReplicaLoop* loop);
  // To register with the ServerBuilder; valid as long as this object.
  grpc::Service* service();

  // Takes ranks from now on, in the epochs of this lead. Before the first Lead or Follow it takes them as one that
  // leads alone.
  void Lead(uint64_t lead_epoch);
  // Its lead was over for a while and nobody else had it: orders that did not leave meanwhile do now, as if they were
  // late on their way.
  void Resume();
  // Lets its ranks go, and takes none until Lead: they are told `why`, which is not OK.
  void Follow(const absl::Status& why);

  absl::Status SetAdapters(std::vector<RankAdapter> adapters, absl::Duration patience) override;

  // Tells every rank that no more plans come, refuses new ones, and returns when every stream has ended.
  void Drain();
  // Heartbeats to whom nothing was said, ends of streams that are silent. Called by the service's own thread; returns
  // when there is something to do next.
  absl::Time Watch();

 private:
  friend class RankStream;
  class Service;
  class Channel;
  struct Stream {
    std::shared_ptr<RankStream> stream;
    Liveness liveness;
    absl::Time opened;
    int32_t place = -1;                                 // of a member
    std::string session;                                // with which it registered
    absl::Time confirm_until = absl::InfiniteFuture();  // of a candidate whose link is there
    LinkId link{};                                      // of a candidate or member; else 0
    std::optional<RankInfo> claim;                      // of a candidate
  };
  struct Member {
    RankStream* stream;
    RankInfo rank;
    uint64_t told = 0, answered = 0;  // serials of lists of adapters; 0: none
    absl::Status adapters;            // what it answered
    bool has_adapters() const { return answered == told && adapters.ok(); }
  };
  struct Replica {
    std::unique_ptr<PlanChannel> channel;
    ReplicaLoop* loop = nullptr;
    int32_t members = 0;
    bool formed = false;
    Epoch epoch{};  // in which it was formed last
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
  void OnAdapters(LinkId id, const AdapterAnswer& answer);
  // Nothing: it does not lead.
  std::optional<uint64_t> LeadEpoch();
  // From the replicas' channels, on their threads.
  void Send(int32_t replica, const StepPlan& plan);
  void Reset(int32_t replica, const absl::Status& why);

  void Run();
  // The stream whose link it is; null if it is gone.
  Stream* FindStream(LinkId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckClaim(const RankInfo& rank) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckIncarnation(const RankInfo& rank) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MakeMember(Stream& stream) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FormIfComplete(int32_t replica) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsComplete(int32_t replica) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellAdapters(Member& member) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FillStart(Epoch epoch, const RankInfo& rank, v1::Start* start) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ranks of one replica. A rank's place is counted over all replicas: replica by replica, stage by stage.
  int32_t Ranks() const { return options_.stages * StageRanks(); }
  int32_t StageRanks() const { return options_.tensor_ranks * options_.sequence_ranks; }
  int32_t PlaceOf(const RankInfo& rank) const { return rank.replica * Ranks() + rank.index(); }
  std::string Name(int32_t place) const;
  // InvalidArgument: it is not that of the member.
  absl::StatusOr<StepResult> OfRank(int32_t place, StepResult result) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The member's stream is closed, or abandoned if nothing can be said to it any more.
  void Remove(int32_t place, const absl::Status& why, bool abandon) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The stream is over, and so is its link: the rank is told, or not.
  void Dismiss(Stream& stream, const absl::Status& why, bool abandon) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSession(const RankStream* stream, const std::string& session) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Order(const Member& member, SharedBytes order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendHeld();
  void Do(Action action) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { actions_.push_back(std::move(action)); }
  void CarryOut() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  Clock& clock_;
  Metrics& metrics_;
  const Metrics::Counter replayed_, unconfirmed_;  // registrations
  std::unique_ptr<Service> service_;
  absl::Mutex mutex_;
  std::vector<Replica> replicas_;                 // protected by mutex_, but for what is set before the server starts
  std::map<RankStream*, Stream> streams_;         // open ones; protected by mutex_, as everything below
  std::map<int32_t, Member> members_;             // by place, as everything below
  std::map<int32_t, std::set<uint64_t>> former_;  // incarnations put out by a newer one
  std::map<int32_t, std::pair<uint64_t, RefusalCounts>> refused_;  // incarnation, and what it has said
  std::deque<Action> actions_;
  bool acting_ = false;
  std::deque<std::pair<LinkId, SharedBytes>> held_;  // orders since the lead was over; of whoever carries actions out
  uint64_t epoch_;                                   // of the next forming
  uint64_t lead_epoch_ = 0;
  absl::Status following_;  // OK: it leads
  AdapterList adapters_{1, {}};
  std::set<std::string> fresh_adapters_;  // digests of those that SetAdapters has just added, and waits for
  bool draining_ = false;
  bool stopping_ = false;
  uint64_t last_link_ = 0;
  PlanLinks links_;
  Thread watch_;
};

}  // namespace interlace
