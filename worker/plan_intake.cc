#include "worker/plan_intake.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/grpc_status.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/plan/plan_codec.h"

namespace interlace {
namespace {

// After this long without a plan, a rank says once more what it holds.
constexpr absl::Duration kIdleReport = absl::Seconds(1);
constexpr int kMostPlanBytes = 256 << 20;

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMostPlanBytes);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);    // a fresh connection, without an old one's back-off
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);  // how long one attempt may take
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 1000);         // a machine that vanished is noticed
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

struct PlanIntake::Session {
  Session(const std::string& address, const Liveness::Options& options, absl::Time now)
      : stub(v1::Cluster::NewStub(ChannelTo(address))), liveness(options, now) {}

  // One writer at a time; false iff the stream is over.
  bool Write(const v1::FromRank& message, absl::Time now) {
    absl::MutexLock lock(&write_mutex);
    {
      absl::MutexLock inner(&mutex);
      liveness.Spoke(now);
    }
    return stream->Write(message);
  }

  grpc::ClientContext context;
  const std::unique_ptr<v1::Cluster::Stub> stub;
  std::unique_ptr<grpc::ClientReaderWriter<v1::FromRank, v1::ToRank>> stream;
  BoundedQueue<Order> orders{64};
  BoundedQueue<StepResult> results{64};
  bool drained = false;  // of the reading thread
  bool started = false;  // likewise
  absl::Mutex write_mutex;
  absl::Mutex mutex;
  Liveness liveness;    // protected by mutex
  bool over = false;    // protected by mutex; nothing more is read
  bool silent = false;  // protected by mutex; the coordinator was
};

PlanIntake::PlanIntake(Rank& rank, const Options& options, Clock& clock, std::unique_ptr<Entropy> entropy)
    : rank_(rank), options_(options), clock_(clock), backoff_(options.backoff, std::move(entropy)) {}

PlanIntake::~PlanIntake() = default;

void PlanIntake::Stop() {
  std::shared_ptr<Session> session;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    session = session_;
  }
  if (session != nullptr) session->context.TryCancel();
}

void PlanIntake::Report() {
  std::shared_ptr<Session> session;
  {
    absl::MutexLock lock(&mutex_);
    session = session_;
  }
  if (session != nullptr) session->orders.TryPush(ReportAsked{});
}

bool PlanIntake::stopped() const {
  absl::MutexLock lock(&mutex_);
  return stopped_;
}

bool PlanIntake::Wait(absl::Duration time) {
  absl::MutexLock lock(&mutex_);
  return !mutex_.AwaitWithTimeout(absl::Condition(&stopped_), time);
}

absl::Status PlanIntake::Run() {
  while (true) {
    const absl::Status status = RunSession();
    if (status.ok() || stopped()) return absl::OkStatus();
    if (absl::IsFailedPrecondition(status)) return status;
    if (std::exchange(told_, status.ToString()) != status.ToString()) {
      LOG(WARNING) << "no session with the coordinator; registering again" << Field("coordinator", options_.coordinator)
                   << status;
    }
    if (!Wait(backoff_.Next())) return absl::OkStatus();
  }
}

std::shared_ptr<PlanIntake::Session> PlanIntake::OpenSession() {
  auto session = std::make_shared<Session>(options_.coordinator, options_.liveness, clock_.Now());
  absl::MutexLock lock(&mutex_);
  if (!stopped_) session_ = session;
  return session_;
}

absl::Status PlanIntake::RunSession() {
  const std::shared_ptr<Session> session = OpenSession();
  if (session == nullptr) return absl::OkStatus();
  session->stream = session->stub->Attach(&session->context);  // waits for the connection, unless cancelled
  v1::FromRank hello;
  EncodeRank(rank_.info(), hello.mutable_register_());
  session->Write(hello, clock_.Now());

  if (rank_.activations() != nullptr) rank_.activations()->Resume();
  {
    Thread answers("answers", [this, session] { Answer(*session); });
    Thread runner("runner", [this, session] {
      RunOrders(*session);
      session->results.Close();
    });
    Thread pulse("pulse", [this, session] { Pulse(*session); });
    Read(*session);
    // Plans that a drained rank still has were sent to every stage, so none of them waits in vain.
    if (rank_.activations() != nullptr && !session->drained) rank_.activations()->Interrupt();
    session->orders.Close();
    absl::MutexLock lock(&session->mutex);
    session->over = true;
  }
  if (session->drained) session->stream->WritesDone();
  const absl::Status status = FromGrpcStatus(session->stream->Finish());
  rank_.runner().Reset();
  if (session->started) {
    backoff_.Reset();
    told_.clear();
  }
  {
    absl::MutexLock lock(&mutex_);
    session_ = nullptr;
    if (session->drained || stopped_) return absl::OkStatus();
  }
  absl::MutexLock lock(&session->mutex);
  if (session->silent) {
    return absl::UnavailableError(
        absl::StrCat("the coordinator was silent for ", absl::FormatDuration(options_.liveness.silence)));
  }
  return status.ok() ? absl::UnavailableError("the coordinator closed the plan stream") : status;
}

void PlanIntake::Read(Session& session) {
  v1::ToRank message;
  while (session.stream->Read(&message)) {
    {
      absl::MutexLock lock(&session.mutex);
      session.liveness.Heard(clock_.Now());
    }
    if (message.has_start()) {
      const Epoch epoch{message.start().epoch()};
      session.started = true;
      // Ends a wait for activations of a former epoch, whether the runner is in it now or only gets there later.
      if (rank_.activations() != nullptr) rank_.activations()->Interrupt(epoch);
      session.orders.Push(Started{epoch, message.start().next_stage_address(), message.start().first_stage_address()});
    } else if (message.has_plan()) {
      absl::StatusOr<StepPlan> plan = DecodePlan(message.plan());
      if (!plan.ok()) {
        LOG(ERROR) << "plan refused" << plan.status();
        return session.context.TryCancel();
      }
      session.orders.Push(*std::move(plan));
    } else if (message.has_drain()) {
      session.drained = true;
      return;
    }
  }
}

void PlanIntake::Pulse(Session& session) {
  v1::FromRank heartbeat;
  heartbeat.mutable_heartbeat();
  while (true) {
    bool silent = false, speak = false;
    {
      absl::MutexLock lock(&session.mutex);
      const absl::Time now = clock_.Now();
      if (session.over) return;
      silent = session.silent = session.liveness.IsSilent(now);
      speak = session.liveness.MustSpeak(now);
    }
    if (silent) return session.context.TryCancel();  // which ends Read
    if (speak) session.Write(heartbeat, clock_.Now());
    absl::MutexLock lock(&session.mutex);
    session.mutex.AwaitWithTimeout(absl::Condition(&session.over), session.liveness.NextLook() - clock_.Now());
  }
}

void PlanIntake::RunOrders(Session& session) {
  Epoch epoch{};
  bool broken = true;    // until the first Start
  bool reported = true;  // what the rank holds since its last plan; tiers give blocks back a little later
  while (true) {
    std::optional<Order> order = session.orders.PopWithin(reported ? absl::InfiniteDuration() : kIdleReport);
    if (!order && session.orders.closed()) return;
    if (!order || std::holds_alternative<ReportAsked>(*order)) {
      if (!broken && !session.results.Push(rank_.runner().Report(epoch))) return;
      reported = true;
      continue;
    }
    if (const Started* started = std::get_if<Started>(&*order)) {
      epoch = started->epoch;
      const absl::Status status = Start(*started);
      broken = !status.ok();
      if (broken) LOG(ERROR) << "rank cannot start" << Field("epoch", Value(epoch)) << status;
      if (!broken) LOG(INFO) << "rank started" << Field("epoch", Value(epoch));
      continue;
    }
    const StepPlan& plan = std::get<StepPlan>(*order);
    if (plan.epoch != epoch) continue;
    StepResult result{.epoch = plan.epoch, .plan = plan.id, .stage = rank_.info().stage};
    if (broken) {
      result.status = absl::UnavailableError("an earlier error stopped this rank; it waits for a new epoch");
    } else {
      result = rank_.runner().Execute(plan, [&session] {
        const Order* const following = session.orders.Front();
        return following == nullptr ? nullptr : std::get_if<StepPlan>(following);
      });
      broken = !result.status.ok();
      if (broken) LOG(ERROR) << "plan failed" << Field("plan", Value(plan.id)) << result.status;
    }
    if (!session.results.Push(std::move(result))) return;
    reported = false;
  }
}

void PlanIntake::Answer(Session& session) {
  while (std::optional<StepResult> result = session.results.Pop()) {
    v1::FromRank message;
    EncodeResult(*result, message.mutable_result());
    if (!session.Write(message, clock_.Now())) session.results.Close();
  }
}

absl::Status PlanIntake::Start(const Started& started) {
  rank_.runner().Reset();
  if (rank_.activations() == nullptr) return absl::OkStatus();
  return rank_.activations()->Connect(started.next_stage_address, started.first_stage_address, started.epoch);
}

}  // namespace interlace
