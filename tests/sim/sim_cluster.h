// SimCluster: the coordinator's process: who is a member of the replica, and the scheduler's loop.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "coordinator/admission.h"
#include "coordinator/scheduler.h"
#include "tests/sim/belief.h"
#include "tests/sim/sim_rank.h"
#include "tests/sim/world.h"

namespace interlace::sim {

// A port of ClusterService (who registers, who is gone, what is dropped) and of ReplicaLoop (an inbox, one scheduler,
// its wake-ups) onto the event loop; the Scheduler inside is the real one. Silence is noticed a little more than 2 s
// after a stream fell silent; heartbeats themselves are not sent. Owned by the Simulation. Thread: one.
class SimCluster final : public PlanChannel {
 public:
  explicit SimCluster(World& world);
  ~SimCluster() override;

  // ---- from clients
  absl::Status Submit(Request request);
  void Cancel(RequestId id);

  // ---- from ranks
  void OnRegister(const std::shared_ptr<Session>& session, const RankInfo& rank);
  void OnResult(const std::shared_ptr<Session>& session, StepResult result);
  void OnGone(const std::shared_ptr<Session>& session, const std::string& why);
  // For a while results arrive twice.
  void Duplicate(absl::Time until) { duplicated_until_ = std::max(duplicated_until_, until); }

  // ---- from the scheduler
  void Send(const StepPlan& plan) override;
  void Reset(const absl::Status& why) override;

  Scheduler& scheduler() { return *scheduler_; }
  const Scheduler& scheduler() const { return *scheduler_; }
  Metrics& metrics() { return metrics_; }
  bool formed() const { return formed_; }
  uint64_t epoch() const { return epoch_ - 1; }  // of the last forming
  bool quiet() const { return inbox_.empty() && !turn_asked_; }
  absl::Time lost_since() const { return lost_since_; }
  // Whether the replica was away so long that requests may have ended for it.
  bool was_away_too_long() const { return away_too_long_; }
  const std::vector<ReplicaShape>& shapes() const { return shapes_; }
  int64_t losses() const { return losses_; }
  const Belief& belief() const { return belief_; }

 private:
  using Event = std::function<void(Scheduler&)>;
  void Post(Event event);
  void AskTurn();
  void Turn();
  void FormIfComplete();
  void Remove(int32_t stage, const std::string& why);
  void Take(StepResult result);
  void CheckLoss();

  World& world_;
  const std::unique_ptr<Entropy> entropy_;
  Metrics metrics_{"simulation"};
  std::unique_ptr<Scheduler> scheduler_;
  std::deque<Event> inbox_;
  bool turn_asked_ = false;
  absl::Time wake_ = absl::InfiniteFuture();
  std::optional<ReplicaShape> published_;
  int32_t submitted_ = 0;
  bool newly_formed_ = false;

  struct Member {
    std::shared_ptr<Session> session;
    RankInfo rank;
  };
  std::map<int32_t, Member> members_;
  uint64_t epoch_ = 1;  // of the next forming
  bool formed_ = false;
  absl::Time lost_since_;
  bool away_too_long_ = false;
  int64_t losses_ = 0;
  std::vector<ReplicaShape> shapes_;
  absl::Time duplicated_until_ = absl::InfinitePast();

  Belief belief_;  // of the epoch that the scheduler knows
  // For canaries: what the scheduler has sent and not heard of.
  std::map<PlanId, StepPlan> open_;
  Epoch open_epoch_{};
};

}  // namespace interlace::sim
