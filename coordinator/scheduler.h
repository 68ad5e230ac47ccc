// Scheduler: turns requests and results into step plans; sole writer of scheduling state.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/metrics.h"
#include "coordinator/block_pool.h"
#include "coordinator/engine.h"
#include "coordinator/replica_shape.h"
#include "coordinator/scheduling_policy.h"
#include "coordinator/sequence_state.h"
#include "coordinator/token_ledger.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// Where plans go. Implemented by ClusterService, by an in-process runner, by the simulation. Thread: the replica's.
class PlanChannel {
 public:
  virtual ~PlanChannel() = default;
  virtual void Send(const StepPlan& plan) = 0;
  // The replica failed: every rank must register again before another plan is sent.
  virtual void Reset(const absl::Status& why) = 0;
};

// There is no prefill phase and no decode phase: a request's computed positions catch up with its tokens, a chunk at a
// time. Owned by ReplicaLoop; thread: the replica's; never blocks. The trap: a sequence is in at most one plan in
// flight, so pipeline stages are kept busy by different requests.
class Scheduler {
 public:
  struct Options {
    int32_t chunk_tokens = 256;
    int32_t step_tokens = 512;
    int32_t max_running = 64;
    int32_t max_recomputes = 8;
    int32_t fixed_keep = -1;  // kv.keep_layers; -1: auto
    int32_t context = 0;      // tokens of the model
    absl::Duration rank_timeout = absl::Seconds(60);
    absl::Duration reform_timeout = absl::Seconds(15);
  };
  Scheduler(const Options& options, std::unique_ptr<SchedulingPolicy> policy, Clock& clock,
            std::unique_ptr<Entropy> entropy, Metrics& metrics, PlanChannel& channel);
  ~Scheduler();  // ends what is left with Cancelled

  // Events.
  void Admit(Request request);
  void Cancel(RequestId id, absl::Status why);
  // What it has is enough: it ends with OK and kStop.
  void Stop(RequestId id) { Cancel(id, absl::OkStatus()); }
  void OnFormed(Epoch epoch, absl::Span<const RankInfo> ranks);
  // The replica is gone: requests go back to waiting with what the ledger accepted, and run on when it is formed again.
  void OnLost(const absl::Status& why);
  void OnResult(StepResult result);

  // The main loop's body: what time did, then plans until as many are in flight as there are stages.
  void RunOnce();
  // When RunOnce has work to do without an event; infinite future: never.
  absl::Time NextWakeUp() const;

  EngineLoad Load() const;
  const std::optional<ReplicaShape>& shape() const { return shape_; }
  absl::StatusOr<Explanation> Explain(absl::string_view name) const;
  bool idle() const { return sequences_.empty(); }
  void CheckInvariants() const;

 private:
  struct InFlight {
    StepPlan plan;
    absl::Time sent;
    std::vector<StepResult> results;  // of the stages that answered
  };
  using Sequences = std::map<RequestId, std::unique_ptr<SequenceState>>;

  // scheduler_plan.cc
  std::optional<StepPlan> Plan();
  void MakeRoom();
  std::vector<SequenceState*> Ordered(Phase phase) const;
  bool MayStart(const SequenceState& sequence) const;
  bool AddToPlan(SequenceState& sequence, int32_t budget, StepPlan* plan);
  bool TakeBlocks(SequenceState& sequence, int32_t tokens);
  bool PreemptFor(const SequenceState& sequence);
  bool ChooseResidency(SequenceState& sequence, StepPlan* plan);
  void Start(SequenceState& sequence);

  // scheduler_commit.cc
  void Commit(InFlight step);
  void Account(const StepResult& result);
  void AccountUsage(const StepResult& result);
  void CommitSequence(const PlanSequence& planned, SequenceState& sequence, const InFlight& step);
  void RollBack(SequenceState& sequence, const LostBlock& loss);
  void AcceptToken(SequenceState& sequence, const SampledToken& sampled);

  void ExpireDeadlines();
  void WatchRanks();
  void BackToWaiting(SequenceState& sequence, std::string note);
  void Finish(SequenceState& sequence, absl::Status status, FinishReason reason);
  void Retire(RequestId id);
  SequenceState* Find(RequestId id, uint32_t attempt);
  Explanation Describe(const SequenceState& sequence) const;

  const Options options_;
  const std::unique_ptr<SchedulingPolicy> policy_;
  Clock& clock_;
  const std::unique_ptr<Entropy> entropy_;
  Metrics& metrics_;
  PlanChannel& channel_;

  BlockPool pool_;
  TokenLedger ledger_;
  Sequences sequences_;
  std::vector<RequestId> releases_;  // for the next plan
  std::map<PlanId, InFlight> in_flight_;
  std::optional<ReplicaShape> shape_;  // set while the replica is formed
  Epoch epoch_{};
  uint64_t next_plan_ = 1;
  absl::Time lost_since_ = absl::InfiniteFuture();
  absl::Status lost_why_;
  std::deque<Explanation> ended_;  // the last 256
};

}  // namespace interlace
