#include "worker/plan_intake.h"

#include <grpcpp/grpcpp.h>

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

}  // namespace

struct PlanIntake::Session {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::FromRank, v1::ToRank>> stream;
  BoundedQueue<Order> orders{64};
};

PlanIntake::PlanIntake(Rank& rank, std::string coordinator_address)
    : rank_(rank), coordinator_address_(std::move(coordinator_address)) {}

PlanIntake::~PlanIntake() = default;

void PlanIntake::Stop() {
  absl::MutexLock lock(&mutex_);
  stopped_ = true;
  if (session_ != nullptr) session_->context.TryCancel();
}

bool PlanIntake::stopped() const {
  absl::MutexLock lock(&mutex_);
  return stopped_;
}

absl::Status PlanIntake::RunSession(absl::Duration connect_timeout) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  arguments.SetMaxReceiveMessageSize(-1);
  auto channel = grpc::CreateCustomChannel(coordinator_address_, grpc::InsecureChannelCredentials(), arguments);
  Session session;
  {
    absl::MutexLock lock(&mutex_);
    if (stopped_) return absl::OkStatus();
    session_ = &session;
  }
  if (!channel->WaitForConnected(
          gpr_time_add(gpr_now(GPR_CLOCK_REALTIME),
                       gpr_time_from_millis(absl::ToInt64Milliseconds(connect_timeout), GPR_TIMESPAN)))) {
    absl::MutexLock lock(&mutex_);
    session_ = nullptr;
    return absl::UnavailableError(absl::StrCat("no coordinator answers at cluster.coordinator=", coordinator_address_));
  }
  auto stub = v1::Cluster::NewStub(channel);
  session.stream = stub->Attach(&session.context);
  v1::FromRank hello;
  EncodeRank(rank_.info(), hello.mutable_register_());
  session.stream->Write(hello);

  if (rank_.activations() != nullptr) rank_.activations()->Resume();
  bool drained = false;
  {
    Thread runner("runner", [this, &session] { RunOrders(session); });
    v1::ToRank message;
    while (session.stream->Read(&message)) {
      if (message.has_start()) {
        // Ends a wait for activations of the former epoch; the runner resumes the channel when it gets here.
        if (rank_.activations() != nullptr) rank_.activations()->Interrupt();
        session.orders.Push(Started{Epoch{message.start().epoch()}, message.start().next_stage_address()});
      } else if (message.has_plan()) {
        absl::StatusOr<StepPlan> plan = DecodePlan(message.plan());
        if (!plan.ok()) {
          LOG(ERROR) << "plan refused" << plan.status();
          session.context.TryCancel();
          break;
        }
        session.orders.Push(*std::move(plan));
      } else if (message.has_drain()) {
        drained = true;
        break;
      }
    }
    if (rank_.activations() != nullptr) rank_.activations()->Interrupt();
    session.orders.Close();
  }
  if (drained) session.stream->WritesDone();
  absl::Status status = FromGrpcStatus(session.stream->Finish());
  rank_.runner().Reset();
  absl::MutexLock lock(&mutex_);
  session_ = nullptr;
  if (drained || stopped_) return absl::OkStatus();
  return status.ok() ? absl::UnavailableError("the coordinator closed the plan stream") : status;
}

void PlanIntake::RunOrders(Session& session) {
  Epoch epoch{};
  bool broken = true;  // until the first Start
  const auto answer = [&session](const StepResult& result) {
    v1::FromRank message;
    EncodeResult(result, message.mutable_result());
    return session.stream->Write(message);
  };
  bool reported = true;  // what the rank holds since its last plan; tiers give blocks back a little later
  while (true) {
    std::optional<Order> order = session.orders.PopWithin(reported ? absl::InfiniteDuration() : kIdleReport);
    if (!order && session.orders.closed()) return;
    if (!order) {
      if (!broken && !answer(rank_.runner().Report(epoch))) return;
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
    const StepPlan* plan = std::get_if<StepPlan>(&*order);
    if (plan == nullptr || plan->epoch != epoch) continue;
    StepResult result{.epoch = plan->epoch, .plan = plan->id, .stage = rank_.info().stage};
    if (broken) {
      result.status = absl::UnavailableError("an earlier error stopped this rank; it waits for a new epoch");
    } else {
      result = rank_.runner().Execute(*plan);
      broken = !result.status.ok();
      if (broken) LOG(ERROR) << "plan failed" << Field("plan", Value(plan->id)) << result.status;
    }
    if (!answer(result)) return;
    reported = false;
  }
}

absl::Status PlanIntake::Start(const Started& started) {
  rank_.runner().Reset();
  if (rank_.activations() == nullptr) return absl::OkStatus();
  rank_.activations()->Resume();
  return rank_.activations()->Connect(started.next_stage_address);
}

}  // namespace interlace
