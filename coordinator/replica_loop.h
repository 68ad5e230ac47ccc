// ReplicaLoop: the thread of one replica's scheduler, and what the front doors see of it.
#pragma once

#include <functional>
#include <memory>
#include <variant>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/bounded_queue.h"
#include "common/config.h"
#include "common/thread.h"
#include "coordinator/admission.h"
#include "coordinator/engine.h"
#include "coordinator/scheduler.h"

namespace interlace {

// Owned by main; any thread. The Scheduler inside is touched by the loop's thread alone. The trap: the channel and the
// rank service must stop before it dies, since they post to it.
class ReplicaLoop final : public Engine {
 public:
  struct Options {
    Scheduler::Options scheduler;
    int32_t ranks = 1;
    int32_t max_waiting = 16384;
    absl::Duration max_queue_time = absl::InfiniteDuration();
    std::function<void()> changed;  // may be null: the replica was formed, or lost; on the loop's thread
  };
  ReplicaLoop(const Options& options, const Policy& policy, Clock& clock, Metrics& metrics, PlanChannel& channel);
  ~ReplicaLoop() override;

  absl::Status Submit(Request request) override;
  void Cancel(RequestId id) override;
  void Stop(RequestId id) override;
  void HandOver(RequestId id, absl::Status why) override;
  absl::StatusOr<Explanation> Explain(absl::string_view name) override;
  absl::StatusOr<ReplicaSnapshot> Snapshot() override;
  EngineLoad Load() override;
  // What the cost model has learned. Unavailable: the loop did not answer in time.
  absl::StatusOr<LearnedCosts> Learned();

  // From the rank service or an in-process runner.
  void OnFormed(Epoch epoch, std::vector<RankInfo> ranks);
  void OnLost(absl::Status why);
  void OnResult(StepResult result);
  // Each request that is here ends with `why`, which is not OK: another coordinator serves from now on.
  void EndAll(absl::Status why);

 private:
  struct Cancelled {
    RequestId id;
  };
  struct Stopped {
    RequestId id;
  };
  struct Leaving {
    RequestId id;
    absl::Status why;
  };
  struct Formed {
    Epoch epoch;
    std::vector<RankInfo> ranks;
  };
  struct Lost {
    absl::Status why;
  };
  struct Ended {
    absl::Status why;
  };
  template <typename Answer>
  struct Question {  // answered on the loop's thread; shared, since the asker may give up
    std::string name;
    absl::StatusOr<Answer> answer = absl::UnavailableError("the scheduler did not answer in time");
    absl::Notification answered;
  };
  using ExplainQuestion = std::shared_ptr<Question<Explanation>>;
  using LearnedQuestion = std::shared_ptr<Question<LearnedCosts>>;
  using SnapshotQuestion = std::shared_ptr<Question<ReplicaSnapshot>>;
  using Event = std::variant<Request, Cancelled, Stopped, Leaving, Formed, Lost, Ended, StepResult, ExplainQuestion,
                             LearnedQuestion, SnapshotQuestion>;

  template <typename Answer>
  absl::StatusOr<Answer> Ask(std::shared_ptr<Question<Answer>> question);
  void Run();
  void Handle(Event event);
  void Publish();
  AdmissionLimits Limits() const;

  const Options options_;
  Clock& clock_;
  Scheduler scheduler_;
  BoundedQueue<Event> inbox_;
  bool formed_ = false;  // since the last Publish; the loop's thread

  absl::Mutex mutex_;
  EngineLoad load_;                         // protected by mutex_
  std::optional<ReplicaShape> shape_;       // protected by mutex_
  std::shared_ptr<const ChainSeed> names_;  // of it; protected by mutex_
  int32_t submitted_ = 0;                   // protected by mutex_; in the inbox, not yet in load_

  Thread thread_;
};

// The options that follow from a configuration. `context`: tokens of the model.
absl::StatusOr<ReplicaLoop::Options> LoopOptions(const Config& config, int32_t context);

}  // namespace interlace
