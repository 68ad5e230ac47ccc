#include "coordinator/replica_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "coordinator/policy/reserve.h"

namespace interlace {

ReplicaLoop::ReplicaLoop(const Options& options, const Policy& policy, Clock& clock, Metrics& metrics,
                         PlanChannel& channel)
    : options_(options),
      clock_(clock),
      scheduler_(options.scheduler, policy, clock, metrics, channel),
      inbox_(65536),
      thread_("scheduler", [this] { Run(); }) {}

ReplicaLoop::~ReplicaLoop() {
  inbox_.Close();
  thread_.Join();
}

void ReplicaLoop::Run() {
  while (!inbox_.closed()) {
    const absl::Duration wait = std::max(absl::ZeroDuration(), scheduler_.NextWakeUp() - clock_.Now());
    std::optional<Event> event = inbox_.PopWithin(wait);
    while (event) {
      Handle(*std::move(event));
      event = inbox_.TryPop();
    }
    scheduler_.RunOnce();
    Publish();
  }
  // What was submitted is admitted all the same, so that it gets its end; questions get an answer.
  while (std::optional<Event> event = inbox_.TryPop()) {
    if (!std::holds_alternative<StepResult>(*event)) Handle(*std::move(event));
  }
}

void ReplicaLoop::Handle(Event event) {
  if (Request* request = std::get_if<Request>(&event)) {
    {
      absl::MutexLock lock(&mutex_);
      --submitted_;
      ++load_.waiting;
    }
    scheduler_.Admit(std::move(*request));
  } else if (Cancelled* cancelled = std::get_if<Cancelled>(&event)) {
    scheduler_.Cancel(cancelled->id, absl::CancelledError("the client is gone"));
  } else if (Stopped* stopped = std::get_if<Stopped>(&event)) {
    scheduler_.Stop(stopped->id);
  } else if (Leaving* leaving = std::get_if<Leaving>(&event)) {
    scheduler_.HandOver(leaving->id, leaving->why);
  } else if (Formed* formed = std::get_if<Formed>(&event)) {
    scheduler_.OnFormed(formed->epoch, formed->ranks);
    formed_ = true;
  } else if (Lost* lost = std::get_if<Lost>(&event)) {
    scheduler_.OnLost(lost->why);
  } else if (Ended* ended = std::get_if<Ended>(&event)) {
    scheduler_.EndAll(ended->why);
  } else if (StepResult* result = std::get_if<StepResult>(&event)) {
    scheduler_.OnResult(std::move(*result));
  } else if (ExplainQuestion* question = std::get_if<ExplainQuestion>(&event)) {
    (*question)->answer = scheduler_.Explain((*question)->name);
    (*question)->answered.Notify();
  } else if (LearnedQuestion* costs = std::get_if<LearnedQuestion>(&event)) {
    (*costs)->answer = scheduler_.Learned();
    (*costs)->answered.Notify();
  } else if (SnapshotQuestion* look = std::get_if<SnapshotQuestion>(&event)) {
    (*look)->answer = scheduler_.Snapshot();
    (*look)->answered.Notify();
  }
}

void ReplicaLoop::Publish() {
  bool changed = false;
  {
    absl::MutexLock lock(&mutex_);
    load_ = scheduler_.Load();
    if (scheduler_.shape() == nullptr) {
      changed = shape_.has_value();
      shape_.reset();
      names_.reset();
    } else if (!shape_ || formed_) {
      changed = true;
      shape_ = *scheduler_.shape();
      names_ = std::make_shared<const ChainSeed>(shape_->seed);
    }
    formed_ = false;
  }
  if (changed && options_.changed) options_.changed();
}

AdmissionLimits ReplicaLoop::Limits() const {
  return {options_.scheduler.context,
          options_.max_waiting,
          options_.max_queue_time,
          {options_.scheduler.fixed_keep, options_.scheduler.chunk_tokens}};
}

absl::Status ReplicaLoop::Submit(Request request) {
  {
    absl::MutexLock lock(&mutex_);
    if (!shape_) return absl::UnavailableError("no replica is ready: ranks are still loading or lost");
    RETURN_IF_ERROR(Admit(*shape_, Limits(), {load_.waiting + submitted_, load_.turnover}, &request));
    ++submitted_;
  }
  if (inbox_.Push(std::move(request))) return absl::OkStatus();
  absl::MutexLock lock(&mutex_);
  --submitted_;
  return absl::UnavailableError("the server is stopping");
}

void ReplicaLoop::Cancel(RequestId id) { inbox_.Push(Cancelled{id}); }
void ReplicaLoop::Stop(RequestId id) { inbox_.Push(Stopped{id}); }
void ReplicaLoop::HandOver(RequestId id, absl::Status why) { inbox_.Push(Leaving{id, std::move(why)}); }
void ReplicaLoop::OnFormed(Epoch epoch, std::vector<RankInfo> ranks) { inbox_.Push(Formed{epoch, std::move(ranks)}); }
void ReplicaLoop::OnLost(absl::Status why) { inbox_.Push(Lost{std::move(why)}); }
void ReplicaLoop::EndAll(absl::Status why) { inbox_.Push(Ended{std::move(why)}); }
void ReplicaLoop::OnResult(StepResult result) { inbox_.Push(std::move(result)); }

template <typename Answer>
absl::StatusOr<Answer> ReplicaLoop::Ask(std::shared_ptr<Question<Answer>> question) {
  if (!inbox_.Push(question) || !question->answered.WaitForNotificationWithTimeout(absl::Seconds(5))) {
    return absl::UnavailableError("the scheduler did not answer in time");
  }
  return std::move(question->answer);
}

absl::StatusOr<Explanation> ReplicaLoop::Explain(absl::string_view name) {
  auto question = std::make_shared<Question<Explanation>>();
  question->name = std::string(name);
  return Ask(std::move(question));
}

absl::StatusOr<ReplicaSnapshot> ReplicaLoop::Snapshot() {
  absl::StatusOr<ReplicaSnapshot> snapshot = Ask(std::make_shared<Question<ReplicaSnapshot>>());
  if (!snapshot.ok()) return snapshot;
  absl::MutexLock lock(&mutex_);
  snapshot->ranks = options_.ranks;
  return snapshot;
}

absl::StatusOr<LearnedCosts> ReplicaLoop::Learned() { return Ask(std::make_shared<Question<LearnedCosts>>()); }

EngineLoad ReplicaLoop::Load() {
  absl::MutexLock lock(&mutex_);
  EngineLoad load = load_;
  load.waiting += submitted_;
  load.ranks = options_.ranks;
  load.names = names_;
  load.queue_room = QueueAhead{load.waiting, load.turnover}.Room(Limits());
  return load;
}

absl::StatusOr<ReplicaLoop::Options> LoopOptions(const Config& config, int32_t context) {
  ReplicaLoop::Options options;
  options.ranks = static_cast<int32_t>(RanksOfReplica(config));
  options.max_waiting = static_cast<int32_t>(config.sched.max_waiting);
  if (config.sched.max_queue_time > absl::ZeroDuration()) options.max_queue_time = config.sched.max_queue_time;
  Scheduler::Options& scheduler = options.scheduler;
  scheduler.chunk_tokens = static_cast<int32_t>(config.sched.chunk_tokens);
  scheduler.step_tokens = static_cast<int32_t>(config.sched.step_tokens);
  scheduler.max_running = static_cast<int32_t>(config.sched.max_running);
  scheduler.turns = static_cast<int32_t>(config.sched.turns);
  scheduler.max_recomputes = static_cast<int32_t>(config.sched.max_recomputes);
  const std::optional<Speculate> speculate = ParseSpeculate(config.sched.speculate);
  if (!speculate) {
    return absl::InvalidArgumentError(absl::StrCat("sched.speculate='", config.sched.speculate,
                                                   "' is not known; write off, ngram, self, draft-model or auto"));
  }
  if ((*speculate == Speculate::kSelf || *speculate == Speculate::kModel) && options.ranks > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("sched.speculate=", config.sched.speculate,
                     ": guesses are made by a rank that runs the whole model alone, and there are ", options.ranks,
                     " ranks; write ngram or auto, or set cluster.stages=1, cluster.tensor_ranks=1 and "
                     "cluster.sequence_ranks=1"));
  }
  scheduler.speculate = *speculate;
  scheduler.draft_tokens = *speculate == Speculate::kOff ? 0 : static_cast<int32_t>(config.sched.draft_tokens);
  scheduler.adapt_drafts = true;
  scheduler.skip_layer = static_cast<int32_t>(config.skip.layer);
  scheduler.audit_every = config.skip.audit_every;
  CHECK(absl::SimpleAtod(config.skip.bounded_share, &scheduler.bounded_share));  // Config has looked at it
  if (config.sched.release != "now" && config.sched.release != "pace") {
    return absl::InvalidArgumentError(
        absl::StrCat("sched.release='", config.sched.release, "' is not known; write now or pace"));
  }
  scheduler.release_at_pace = config.sched.release == "pace";
  scheduler.shed = config.sched.shed;
  scheduler.secret = config.kv.secret;
  RETURN_IF_ERROR(ParseReserve(config.sched.reserve, &scheduler.policy));
  scheduler.policy.max_parked = static_cast<int32_t>(config.sched.max_parked);
  if (!absl::SimpleAtoi(config.kv.keep_layers, &scheduler.fixed_keep)) scheduler.fixed_keep = -1;  // auto
  scheduler.context = context;
  scheduler.rank_timeout = config.cluster.rank_timeout;
  scheduler.reform_timeout = config.cluster.reform_timeout;
  return options;
}

}  // namespace interlace
