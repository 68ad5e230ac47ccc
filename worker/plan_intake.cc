#include "worker/plan_intake.h"

#include <grpcpp/grpcpp.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/bounded_queue.h"
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
// Orders that wait for the runner. A coordinator has one plan more in flight than there are stages.
constexpr size_t kMostOrders = 1024;
// Lists of adapters that wait to be read. Each comes of a request of an operator, who waits for the answer.
constexpr size_t kMostLists = 256;

v1::FromRank HeartbeatMessage(const RefusalCounts& refused) {
  v1::FromRank message;
  message.mutable_heartbeat()->mutable_refused()->Assign(refused.begin(), refused.end());
  return message;
}

std::string DrawSession(Entropy& entropy) {
  const uint64_t words[] = {entropy.Next(), entropy.Next()};
  static_assert(sizeof words == kSessionBytes);
  return std::string(reinterpret_cast<const char*>(words), sizeof words);
}

}  // namespace

// Shared with the transport's callbacks, which may outlive it.
struct PlanIntake::Session {
  Session(const std::shared_ptr<grpc::Channel>& channel, const Liveness::Options& options, absl::Time now,
          std::string drawn)
      : id(std::move(drawn)), stub(v1::Cluster::NewStub(channel)), liveness(options, now) {}

  // One writer at a time.
  void Write(const v1::FromRank& message, absl::Time now) {
    absl::MutexLock lock(&write_mutex);
    {
      absl::MutexLock inner(&mutex);
      liveness.Spoke(now);
    }
    if (!done) stream->Write(message);
  }
  void WritesDone() {
    absl::MutexLock lock(&write_mutex);
    if (!std::exchange(done, true)) stream->WritesDone();
  }
  // Ends the stream at once. Of several reasons the first counts.
  void End(const absl::Status& why) {
    {
      absl::MutexLock lock(&mutex);
      if (ended.ok()) ended = why;
    }
    context.TryCancel();  // which ends Read
  }
  // Has the pulse end our side of the stream, so that the coordinator ends the other and may say why: a link that it
  // closed may be lost before that is read.
  void Leave(const absl::Status& why) {
    absl::MutexLock lock(&mutex);
    if (over || !left.ok()) return;
    left = why;
    leaving = true;
  }
  // Nothing more is taken. True iff the coordinator drained this rank.
  bool Close() {
    absl::MutexLock lock(&mutex);
    over = true;
    return drained;
  }
  // Whether it comes from the coordinator of this session, over its link, and before the session's end was decided.
  bool Admits(const Message& message) {
    absl::MutexLock lock(&mutex);
    if (over || !ended.ok() || message.header != id) return false;
    if (!link) link = message.from;
    return *link == message.from;
  }
  std::optional<PeerId> Link() {
    absl::MutexLock lock(&mutex);
    return link;
  }

  const std::string id;
  grpc::ClientContext context;
  const std::unique_ptr<v1::Cluster::Stub> stub;
  std::unique_ptr<grpc::ClientReaderWriter<v1::FromRank, v1::ToRank>> stream;
  BoundedQueue<Order> orders{kMostOrders};
  BoundedQueue<AdapterList> lists{kMostLists};
  std::atomic<bool> report_asked{false};  // and not taken by the runner yet
  absl::Mutex write_mutex;
  bool done = false;  // protected by write_mutex; nothing more is written
  absl::Mutex mutex;
  Liveness liveness;           // protected by mutex, as everything below
  std::optional<PeerId> link;  // whence orders come
  bool started = false;
  bool drained = false;
  bool over = false;     // nothing more is taken
  bool leaving = false;  // and the pulse is to see to it
  absl::Status left, ended;
};

PlanIntake::PlanIntake(Rank& rank, const Options& options, Transport& transport, Clock& clock,
                       std::unique_ptr<Entropy> entropy)
    : rank_(rank),
      options_(options),
      transport_(transport),
      clock_(clock),
      sessions_(entropy->Fork("sessions")),
      backoff_(options.backoff, std::move(entropy)),
      dial_(options.coordinator, options.security) {
  transport_.Listen(kPlanChannel, [this, gate = gate_](Message message) {
    if (!gate->TryEnter()) return;
    OnMessage(message);
    gate->Leave();
  });
  transport_.OnPeerLost([this, gate = gate_](PeerId peer, absl::Status why) {
    if (!gate->TryEnter()) return;
    OnPeerLost(peer, why);
    gate->Leave();
  });
}

PlanIntake::~PlanIntake() { gate_->Close(); }

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
  const std::shared_ptr<Session> current = Current();
  if (current == nullptr || current->report_asked.exchange(true)) return;
  if (!current->orders.TryPush(ReportAsked{})) current->report_asked = false;
}

std::shared_ptr<PlanIntake::Session> PlanIntake::Current() const {
  absl::MutexLock lock(&mutex_);
  return session_;
}

bool PlanIntake::stopped() const {
  absl::MutexLock lock(&mutex_);
  return stopped_;
}

bool PlanIntake::attached() const {
  absl::MutexLock lock(&mutex_);
  return attached_;
}

bool PlanIntake::AwaitAttachedOtherThan(bool known) const {
  absl::MutexLock lock(&mutex_);
  const auto over = [this, known]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopped_ || attached_ != known; };
  mutex_.Await(absl::Condition(&over));
  return !stopped_;
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

absl::StatusOr<std::shared_ptr<PlanIntake::Session>> PlanIntake::OpenSession() {
  ASSIGN_OR_RETURN(const CoordinatorDial::Dialled to, dial_.Next());
  auto session = std::make_shared<Session>(to.channel, options_.liveness, clock_.Now(), DrawSession(*sessions_));
  absl::MutexLock lock(&mutex_);
  if (!stopped_) session_ = session;
  return session_;
}

absl::Status PlanIntake::RunSession() {
  ASSIGN_OR_RETURN(const std::shared_ptr<Session> session, OpenSession());
  if (session == nullptr) return absl::OkStatus();
  session->stream = session->stub->Attach(&session->context);  // waits for the connection, unless cancelled
  // Before any order can come.
  rank_.Resume();
  v1::FromRank hello;
  EncodeRank(rank_.info(), hello.mutable_register_());
  hello.mutable_register_()->set_session(session->id);
  session->Write(hello, clock_.Now());
  {
    Thread runner("runner", [this, session] { RunOrders(session); });
    Thread adapters("adapters", [this, session] { ReadLists(*session); });
    Thread pulse("pulse", [this, session] { Pulse(*session); });
    Listen(*session);
    const bool drained = session->Close();
    // Plans that a drained rank still has were sent to every stage, so none of them waits in vain.
    if (!drained) rank_.Interrupt();
    session->orders.Close();
    session->lists.Close();
  }
  // When the link is closed, no order of this session is being taken any more.
  if (const std::optional<PeerId> link = session->Link()) transport_.Close(*link);
  const absl::Status status = FromGrpcStatus(session->stream->Finish());
  rank_.runner().Reset();
  {
    absl::MutexLock lock(&mutex_);
    session_ = nullptr;
    attached_ = false;
    if (stopped_) return absl::OkStatus();
  }
  absl::MutexLock lock(&session->mutex);
  if (session->started) {
    backoff_.Reset();
    told_.clear();
  }
  if (session->drained) return absl::OkStatus();
  for (const absl::Status& why : {session->ended, status, session->left}) {
    if (!why.ok()) return why;
  }
  return absl::UnavailableError("the coordinator closed the stream");
}

void PlanIntake::Listen(Session& session) {
  v1::ToRank heartbeat;
  while (session.stream->Read(&heartbeat)) {
    absl::MutexLock lock(&session.mutex);
    session.liveness.Heard(clock_.Now());
  }
}

void PlanIntake::OnMessage(const Message& message) {
  const std::shared_ptr<Session> current = Current();
  if (current == nullptr || !current->Admits(message)) {
    ++strangers_;
    if (const std::optional<int64_t> more = told_of_strangers_.Pass(clock_.Now())) {
      LOG(WARNING) << "an order of no session of ours was dropped" << Field("peer", static_cast<uint64_t>(message.from))
                   << Field("bytes", message.body.size()) << Field("dropped_before_in_silence", *more);
    }
    return;
  }
  v1::Order order;
  absl::Status status = absl::InvalidArgumentError("the coordinator sent bytes that are no order");
  if (order.ParseFromString(message.body)) status = Take(current, order);
  if (status.ok()) return;
  LOG(ERROR) << "order refused" << status;
  current->End(status);
}

void PlanIntake::OnPeerLost(PeerId peer, const absl::Status& why) {
  const std::shared_ptr<Session> current = Current();
  if (current == nullptr || current->Link() != peer) return;
  current->Leave(absl::UnavailableError(absl::StrCat("the plan link was lost: ", why.message())));
}

absl::Status PlanIntake::Take(const std::shared_ptr<Session>& current, const v1::Order& order) {
  Session& session = *current;
  bool taken = true;
  if (order.has_start()) {
    const Epoch epoch{order.start().epoch()};
    {
      absl::MutexLock lock(&session.mutex);
      session.started = true;
    }
    // Ends a wait for activations of a former epoch, whether the runner is in it now or only gets there later.
    rank_.Interrupt(epoch);
    const v1::Start& start = order.start();
    taken = session.orders.TryPush(Started{epoch,
                                           start.next_stage_address(),
                                           start.first_stage_address(),
                                           {start.collective_addresses().begin(), start.collective_addresses().end()}});
  } else if (order.has_plan()) {
    ASSIGN_OR_RETURN(StepPlan plan, DecodePlan(order.plan()));
    taken = session.orders.TryPush(std::move(plan));
  } else if (order.has_adapters()) {
    taken = session.lists.TryPush(DecodeAdapters(order.adapters()));
  } else if (order.has_drain()) {
    {
      absl::MutexLock lock(&session.mutex);
      session.drained = true;
    }
    taken = session.orders.TryPush(Drained{});
  } else if (order.has_linked()) {
    if (!dial_.MayObey(order.linked().lead_epoch())) {
      session.End(absl::UnavailableError(absl::StrCat("the coordinator leads in epoch ", order.linked().lead_epoch(),
                                                      "; this rank has obeyed one of epoch ", dial_.obeyed())));
      return absl::OkStatus();
    }
    Confirm(current);
  } else {
    return absl::InvalidArgumentError("the coordinator sent an empty order");
  }
  // A closed queue: the session is over, and nobody minds.
  if (taken || session.orders.closed()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the coordinator sent orders while ", kMostOrders, " wait"));
}

void PlanIntake::Pulse(Session& session) {
  const auto due = [&session]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return session.over || session.leaving; };
  while (true) {
    bool silent = false, speak = false, leave = false;
    {
      absl::MutexLock lock(&session.mutex);
      const absl::Time now = clock_.Now();
      if (session.over) return;
      leave = std::exchange(session.leaving, false);
      silent = session.liveness.IsSilent(now);
      speak = session.liveness.MustSpeak(now);
    }
    if (silent) {
      return session.End(absl::UnavailableError(
          absl::StrCat("the coordinator was silent for ", absl::FormatDuration(options_.liveness.silence))));
    }
    if (leave) session.WritesDone();
    if (speak) session.Write(HeartbeatMessage(transport_.Refused()), clock_.Now());
    absl::MutexLock lock(&session.mutex);
    session.mutex.AwaitWithTimeout(absl::Condition(&due), session.liveness.NextLook() - clock_.Now());
  }
}

void PlanIntake::RunOrders(const std::shared_ptr<Session>& session) {
  bool reported = true;  // what the rank holds since its last plan; tiers give blocks back a little later
  for (EpochState state;;) {
    std::optional<Order> order = session->orders.PopWithin(reported ? absl::InfiniteDuration() : kIdleReport);
    if (!order && session->orders.closed()) return;
    if (order && std::holds_alternative<Drained>(*order)) return session->WritesDone();
    if (!order || std::holds_alternative<ReportAsked>(*order)) {
      session->report_asked = false;
      if (!state.broken) Answer(session, rank_.runner().Report(state.epoch));
      reported = true;
    } else if (const Read* read = std::get_if<Read>(&*order)) {
      InstallAdapters(session, std::move(**read));
    } else if (const Started* started = std::get_if<Started>(&*order)) {
      state = RunStart(*started);
    } else if (const StepPlan& plan = std::get<StepPlan>(*order); plan.epoch == state.epoch) {
      RunPlan(session, plan, &state);
      reported = false;
    }
  }
}

void PlanIntake::ReadLists(Session& session) {
  while (std::optional<AdapterList> list = session.lists.Pop()) {
    if (session.lists.closed()) return;  // what is left is of a session that is over
    session.orders.Push(std::make_shared<ReadAdapters>(rank_.adapter_loader().Read(*list)));
  }
}

void PlanIntake::InstallAdapters(const std::shared_ptr<Session>& session, ReadAdapters read) {
  const AdapterAnswer answer = rank_.adapter_loader().Install(std::move(read));
  v1::StepResultMessage message;
  EncodeAnswer(answer, message.mutable_adapters());
  SayOnLink(session, message.SerializeAsString());
}

PlanIntake::EpochState PlanIntake::RunStart(const Started& started) {
  const absl::Status status = Start(started);
  if (status.ok()) LOG(INFO) << "rank started" << Field("epoch", Value(started.epoch));
  if (!status.ok()) LOG(ERROR) << "rank cannot start" << Field("epoch", Value(started.epoch)) << status;
  return {started.epoch, !status.ok()};
}

void PlanIntake::RunPlan(const std::shared_ptr<Session>& session, const StepPlan& plan, EpochState* state) {
  if (state->broken) {
    return Answer(session,
                  {.epoch = plan.epoch,
                   .plan = plan.id,
                   .stage = rank_.info().stage,
                   .stage_rank = rank_.info().stage_rank(),
                   .status = absl::UnavailableError("an earlier error stopped this rank; it waits for a new epoch")});
  }
  const StepResult result = rank_.runner().Execute(plan, [&session] {
    const Order* const following = session->orders.Front();
    return following == nullptr ? nullptr : std::get_if<StepPlan>(following);
  });
  state->broken = !result.status.ok();
  if (state->broken) LOG(ERROR) << "plan failed" << Field("plan", Value(plan.id)) << result.status;
  Answer(session, result);
}

// Shows the coordinator that the connection is the link of the rank that registered.
void PlanIntake::Confirm(const std::shared_ptr<Session>& session) {
  SayOnLink(session, std::string());
  absl::MutexLock lock(&mutex_);
  attached_ = session_ == session;
}

void PlanIntake::Answer(const std::shared_ptr<Session>& session, const StepResult& result) {
  v1::StepResultMessage message;
  EncodeResult(result, &message);
  SayOnLink(session, message.SerializeAsString());
}

// Orders came over the link, so there is one. What does not leave ends the session.
void PlanIntake::SayOnLink(const std::shared_ptr<Session>& session, std::string bytes) {
  transport_.Send(*session->Link(), kResultChannel, session->id,
                  {std::make_shared<const std::string>(std::move(bytes))}, [session](const absl::Status& status) {
                    if (!status.ok())
                      session->Leave(absl::UnavailableError(
                          absl::StrCat("a result did not reach the coordinator: ", status.message())));
                  });
}

absl::Status PlanIntake::Start(const Started& started) {
  rank_.runner().Reset();
  return rank_.Connect(started.next_stage_address, started.first_stage_address, started.collective_addresses,
                       started.epoch);
}

}  // namespace interlace
