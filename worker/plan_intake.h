// PlanIntake: the rank's end of the plan stream: registers, executes plans as they come, answers results.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "common/backoff.h"
#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/entropy.h"
#include "common/ids.h"
#include "common/liveness.h"
#include "proto/plan/step_plan.h"
#include "worker/rank.h"

namespace interlace {

// One session is one stream: registered, then for each epoch a Start and its plans. When a session ends (the
// coordinator is gone, silent, or put this rank out), the rank keeps its weights and registers again, waiting longer
// from attempt to attempt. Owned by main. Threads of a session: RunSession's caller reads the stream; "runner"
// executes, "answers" writes its results, so that the next plan does not wait for that; "pulse" says that this rank
// lives, whatever the runner computes, and ends the session when the coordinator says nothing for
// Options::liveness.silence. On Start everything of the former epoch is forgotten, plans still queued included.
class PlanIntake {
 public:
  struct Options {
    std::string coordinator;  // "host:port"
    Liveness::Options liveness;
    Backoff::Options backoff;
  };
  PlanIntake(Rank& rank, const Options& options, Clock& clock, std::unique_ptr<Entropy> entropy);
  ~PlanIntake();

  // Session after session, until the coordinator drains this rank or Stop is called (OK), or the coordinator says that
  // this rank does not fit (FailedPrecondition).
  absl::Status Run();
  // Registers and serves until the stream ends. OK: drained or stopped; else why it ended.
  absl::Status RunSession();
  // Ends the session and Run, at once; any thread.
  void Stop();
  // Has the runner's thread say what the rank holds and what came true between plans; any thread. Nothing happens
  // before the first Start of a session, or while so many plans wait that a result will say it anyway.
  void Report();

 private:
  struct Started {
    Epoch epoch;
    std::string next_stage_address;
    std::string first_stage_address;
  };
  struct ReportAsked {};
  using Order = std::variant<Started, StepPlan, ReportAsked>;
  struct Session;

  std::shared_ptr<Session> OpenSession();
  bool stopped() const;
  void Read(Session& session);
  void RunOrders(Session& session);
  void Answer(Session& session);
  void Pulse(Session& session);
  absl::Status Start(const Started& started);
  bool Wait(absl::Duration time);  // false iff stopped

  Rank& rank_;
  const Options options_;
  Clock& clock_;
  Backoff backoff_;   // of Run's thread
  std::string told_;  // of Run's thread: the last warning. A coordinator that is away for long fills no log
  mutable absl::Mutex mutex_;
  std::shared_ptr<Session> session_;  // protected by mutex_
  bool stopped_ = false;              // protected by mutex_
};

}  // namespace interlace
