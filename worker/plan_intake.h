// PlanIntake: the rank's end of the plan stream: registers, executes plans as they come, answers results.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "common/bounded_queue.h"
#include "common/ids.h"
#include "proto/plan/step_plan.h"
#include "worker/rank.h"

namespace interlace {

// One session is one stream: registered, then for each epoch a Start and its plans. Owned by main.
// Threads: RunSession's caller reads the stream; a runner thread, alive for the session, executes.
// The trap: on Start everything of the former epoch is forgotten, plans still queued included.
class PlanIntake {
 public:
  PlanIntake(Rank& rank, std::string coordinator_address);
  ~PlanIntake();

  // Waits for the coordinator (up to `connect_timeout`), registers, serves until the stream ends. OK: the coordinator
  // drained this rank, or Stop was called; otherwise why the stream ended (FailedPrecondition: this rank does not fit).
  absl::Status RunSession(absl::Duration connect_timeout);
  // Ends the session; any thread.
  void Stop();
  bool stopped() const;

 private:
  struct Started {
    Epoch epoch;
    std::string next_stage_address;
  };
  struct Drained {};
  using Order = std::variant<Started, StepPlan, Drained>;
  struct Session;

  void RunOrders(Session& session);
  absl::Status Start(const Started& started);

  Rank& rank_;
  const std::string coordinator_address_;
  mutable absl::Mutex mutex_;
  Session* session_ = nullptr;  // protected by mutex_
  bool stopped_ = false;        // protected by mutex_
};

}  // namespace interlace
