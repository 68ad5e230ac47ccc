// PlanIntake: the rank's end of its stream and plan link: registers, executes plans as they come, answers results.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "common/backoff.h"
#include "common/clock.h"
#include "common/cluster_security.h"
#include "common/entropy.h"
#include "common/gate.h"
#include "common/ids.h"
#include "common/liveness.h"
#include "common/log_limit.h"
#include "common/transport.h"
#include "proto/plan/step_plan.h"
#include "worker/coordinator_dial.h"
#include "worker/rank.h"

namespace interlace::v1 {
class Order;
}

namespace interlace {

// One session is one gRPC stream, which registers the rank, and one plan link, which the coordinator makes and on which
// come a Start for each epoch and its plans. Whichever ends first ends the other (the coordinator is gone, silent, or
// put this rank out); then the rank keeps its weights and registers again, waiting longer from attempt to attempt.
// Where there are several coordinators it registers with the one that leads, and never obeys one of an epoch before the
// highest that it has obeyed. Messages on the plan channel that do not bear the session, or come from another
// connection than the first that bore it, are counted and dropped. Owned by main. Threads of a session: RunSession's
// caller reads the stream, the transport's takes orders and never waits, "runner" executes and hands its results to the
// transport, "adapters" reads the files of adapters, which the runner then installs, "pulse" says that this rank lives,
// whatever the runner computes, and ends the session when the coordinator says nothing for Options::liveness.silence.
// On Start everything of the former epoch is forgotten, plans still queued included.
class PlanIntake {
 public:
  struct Options {
    std::string coordinator;  // "host:port"; of several, with commas, it goes to the one that leads
    std::shared_ptr<const ClusterSecurity> security = std::make_shared<const ClusterSecurity>();
    Liveness::Options liveness;
    Backoff::Options backoff;
  };
  // `transport` outlives this object; the address of the rank is its, and nothing else listens on its plan channel.
  PlanIntake(Rank& rank, const Options& options, Transport& transport, Clock& clock, std::unique_ptr<Entropy> entropy);
  ~PlanIntake();

  // Session after session, until the coordinator drains this rank or Stop is called (OK), or the coordinator says that
  // this rank does not fit (FailedPrecondition).
  absl::Status Run();
  // Registers and serves until the stream ends. OK: drained or stopped; else why it ended.
  absl::Status RunSession();
  // Ends the session and Run, at once; any thread.
  void Stop();
  // Has the runner's thread say what the rank holds and what came true between plans; any thread. Nothing happens
  // before the first Start of a session.
  void Report();
  // Whether a coordinator holds this rank: it has made the plan link, and the session lasts. Any thread.
  bool attached() const;
  // Waits until attached() is other than `known`: true; or until Stop was called: false. Any thread.
  bool AwaitAttachedOtherThan(bool known) const;
  // Messages on the plan channel that were dropped.
  int64_t strangers() const { return strangers_.load(); }

 private:
  struct Started {
    Epoch epoch;
    std::string next_stage_address;
    std::string first_stage_address;
    std::vector<std::string> collective_addresses;
  };
  struct ReportAsked {};
  struct Drained {};
  struct EpochState {
    Epoch epoch{};
    bool broken = true;  // until a Start went well, and from the first error on
  };
  // A list of adapters whose files "adapters" has read; held once, since what it read is large.
  using Read = std::shared_ptr<ReadAdapters>;
  using Order = std::variant<Started, StepPlan, ReportAsked, Drained, Read>;
  struct Session;

  absl::StatusOr<std::shared_ptr<Session>> OpenSession();
  std::shared_ptr<Session> Current() const;
  bool stopped() const;
  void Listen(Session& session);
  void OnMessage(const Message& message);
  void OnPeerLost(PeerId peer, const absl::Status& why);
  // InvalidArgument: no coordinator of ours says so.
  absl::Status Take(const std::shared_ptr<Session>& current, const v1::Order& order);
  void Confirm(const std::shared_ptr<Session>& session);
  void SayOnLink(const std::shared_ptr<Session>& session, std::string bytes);
  void RunOrders(const std::shared_ptr<Session>& session);
  void ReadLists(Session& session);
  void InstallAdapters(const std::shared_ptr<Session>& session, ReadAdapters read);
  EpochState RunStart(const Started& started);
  void RunPlan(const std::shared_ptr<Session>& session, const StepPlan& plan, EpochState* state);
  void Answer(const std::shared_ptr<Session>& session, const StepResult& result);
  void Pulse(Session& session);
  absl::Status Start(const Started& started);
  bool Wait(absl::Duration time);  // false iff stopped

  Rank& rank_;
  const Options options_;
  Transport& transport_;
  Clock& clock_;
  const std::unique_ptr<Entropy> sessions_;  // of Run's thread
  Backoff backoff_;                          // of Run's thread
  CoordinatorDial dial_;
  std::string told_;  // of Run's thread: the last warning. A coordinator that is away for long fills no log
  const std::shared_ptr<Gate> gate_ = std::make_shared<Gate>();  // the transport's callbacks may outlive this object
  std::atomic<int64_t> strangers_{0};
  LogLimit told_of_strangers_{absl::Seconds(1)};  // of the transport's thread
  mutable absl::Mutex mutex_;
  std::shared_ptr<Session> session_;  // protected by mutex_
  bool stopped_ = false;              // protected by mutex_
  bool attached_ = false;             // protected by mutex_; of session_
};

}  // namespace interlace
