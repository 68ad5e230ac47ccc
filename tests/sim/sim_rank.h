// SimRank: the process of one rank, with its end of the plan stream and of the links between stages.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/backoff.h"
#include "tests/sim/network.h"
#include "tests/sim/sim_pager.h"
#include "tests/sim/world.h"

namespace interlace::sim {

class SimRank;
class SimCluster;

// One plan stream: from registering until either end is gone. Held by both ends.
struct Session {
  uint64_t id = 0;
  SimRank* rank = nullptr;
  std::shared_ptr<Pipe> to_rank, to_coordinator;
  bool over_for_rank = false;
  bool over_for_coordinator = false;
  int32_t stage = -1;  // of a member; the coordinator's
};

// From one stage to another: activations to the next one, samples from the last to the first. Messages name their
// epoch and plan, and what is older is dropped, as ActivationChannel does.
struct StageMessage {
  Epoch epoch{};
  PlanId plan{};
  std::vector<uint64_t> rows;
  std::vector<size_t> lost;  // indices of the plan's sequences
  std::vector<SampledToken> samples;
};

// A port of PlanIntake, ModelRunner and ActivationChannel: sessions with back-off, a queue of orders that is executed
// one by one, epochs. A step is computed when it begins, and its messages leave when it ends; a process that dies in
// between takes them along. Owned by the Simulation. Thread: one.
class SimRank {
 public:
  SimRank(World& world, SimCluster& cluster, int32_t stage, std::vector<SimTier*> tiers);
  ~SimRank();
  void Connect(std::vector<SimRank*> ranks) { ranks_ = std::move(ranks); }  // all of the replica, by stage

  void Boot();
  const RankInfo& info() const { return info_; }

  // ---- from the coordinator, over the session's pipe
  void OnStart(const std::shared_ptr<Session>& session, Epoch epoch);
  void OnPlan(const std::shared_ptr<Session>& session, const std::shared_ptr<const StepPlan>& plan);
  void OnClosed(const std::shared_ptr<Session>& session, const std::string& why);

  // ---- from other stages
  void OnStageMessage(StageMessage message);
  // The connection with a stage, on which messages of `epoch` came or went, has ended.
  void OnLinkLost(Epoch epoch);

  // ---- faults
  void Crash(absl::Duration until_boot);
  void Stop(absl::Duration time);
  void Partition(absl::Duration time);
  void Slow(absl::Duration time, int32_t times);
  void BreakStream();
  bool FlipFrame(Entropy& entropy) { return pager_ != nullptr && pager_->pool().FlipOne(entropy); }
  void BreakLink();
  void ClogLink(absl::Duration time);

  bool up() const { return pager_ != nullptr; }
  // It has a session, has started, and nothing to do.
  bool idle() const {
    return up() && session_ != nullptr && !broken_ && !busy_ && orders_.empty() && !pager_->pool().fetching();
  }
  const SimPager* pager() const { return pager_.get(); }
  Epoch epoch() const { return epoch_; }

 private:
  struct Started {
    Epoch epoch;
  };
  struct ReportAsked {};
  using Order = std::variant<Started, std::shared_ptr<const StepPlan>, ReportAsked>;
  enum class Waits : uint8_t { kNothing, kSamples, kActivations };

  // Runs the task later unless this process is gone then; when it stands still, after that.
  void Later(absl::Time when, Task task);
  void OpenSession();
  void EndSession(const std::string& why);
  void RunOrders();
  void Start(Epoch epoch);
  void BeginStep();
  void OpenPlan();
  void ComputeStep(StageMessage input);
  void EndStep();
  void FailStep(const std::string& why);
  void Answer(StepResult result);
  void SendToStage(SimRank* rank, std::shared_ptr<Pipe>* pipe, StageMessage message);
  bool Poisoned(const StepPlan& plan) const;

  World& world_;
  SimCluster& cluster_;
  RankInfo info_;
  const std::vector<SimTier*> disks_;
  std::vector<SimRank*> ranks_;
  const std::unique_ptr<Entropy> entropy_;
  uint64_t life_ = 0;  // of the process; grows when it dies
  std::unique_ptr<SimTierStack> tiers_;
  std::unique_ptr<SimPager> pager_;  // null: the process is down
  std::optional<Backoff> backoff_;

  std::shared_ptr<Session> session_;
  bool session_started_ = false;
  bool report_asked_ = false;
  std::deque<Order> orders_;
  Epoch epoch_{};
  bool broken_ = true;  // until the first Start
  bool link_lost_ = false;

  // The step that is being executed.
  bool busy_ = false;
  bool session_ended_ = false;  // while it was
  Waits waits_ = Waits::kNothing;
  uint64_t step_ = 0;  // numbers steps, for their time-outs
  std::shared_ptr<const StepPlan> plan_;
  StepResult result_;
  StageMessage output_;
  std::deque<StageMessage> arrived_;
  std::shared_ptr<Pipe> to_next_, to_first_;

  absl::Time stopped_until_ = absl::InfinitePast();
  absl::Time partitioned_until_ = absl::InfinitePast();
  absl::Time slow_until_ = absl::InfinitePast();
  int32_t slow_times_ = 1;
};

}  // namespace interlace::sim
