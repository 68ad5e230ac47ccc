// Scheduler: events, deadlines, ends. Plans are made in scheduler_plan.cc, results taken in scheduler_commit.cc.
#include "coordinator/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"

namespace interlace {

Scheduler::Scheduler(const Options& options, std::unique_ptr<SchedulingPolicy> policy, Clock& clock,
                     std::unique_ptr<Entropy> entropy, Metrics& metrics, PlanChannel& channel)
    : options_(options),
      policy_(std::move(policy)),
      clock_(clock),
      entropy_(std::move(entropy)),
      metrics_(metrics),
      channel_(channel) {}

Scheduler::~Scheduler() {
  in_flight_.clear();
  for (auto& [id, sequence] : sequences_) sequence->in_flight = false;
  while (!sequences_.empty()) {
    const auto& [id, sequence] = *sequences_.begin();
    if (sequence->phase == Phase::kRetiring) {
      Retire(id);  // how it ends was decided before
    } else {
      Finish(*sequence, absl::CancelledError("the coordinator stops"), FinishReason::kStop);
    }
  }
}

void Scheduler::RunOnce() {
  ExpireDeadlines();
  WatchRanks();
  while (std::optional<StepPlan> plan = Plan()) {
    channel_.Send(*plan);
    in_flight_.emplace(plan->id, InFlight{*plan, clock_.Now(), {}});
  }
  const EngineLoad load = Load();
  metrics_.Set("vllm:num_requests_running", load.running);
  metrics_.Set("vllm:num_requests_waiting", load.waiting);
  metrics_.Set("interlace_kv_blocks_held", load.blocks_held);
  metrics_.Set("vllm:kv_cache_usage_perc", load.blocks > 0 ? static_cast<double>(load.blocks_held) / load.blocks : 0);
}

void Scheduler::Admit(Request request) {
  const RequestId id = request.id;
  metrics_.Add("vllm:prompt_tokens_total", static_cast<double>(request.prompt.size()));
  ledger_.Open(id);
  auto sequence = std::make_unique<SequenceState>(std::move(request));
  sequence->started = sequence->first_token = sequence->last_token = absl::InfinitePast();
  sequence->explanation.name = sequence->request.name;
  sequences_.emplace(id, std::move(sequence));
}

void Scheduler::Cancel(RequestId id, absl::Status why) {
  auto it = sequences_.find(id);
  if (it != sequences_.end() && it->second->phase != Phase::kRetiring) {
    Finish(*it->second, std::move(why), FinishReason::kStop);
  }
}

void Scheduler::OnFormed(Epoch epoch, absl::Span<const RankInfo> ranks) {
  if (shape_) OnLost(absl::UnavailableError("the replica was formed anew"));
  shape_ = ShapeOf(ranks);
  epoch_ = epoch;
  lost_since_ = absl::InfiniteFuture();
  releases_.clear();  // ranks forgot everything at Start
  pool_.SetCapacity(shape_->blocks);
  metrics_.Set("interlace_ranks_ready", static_cast<double>(ranks.size()));
  LOG(INFO) << "replica formed" << Field("epoch", Value(epoch)) << Field("ranks", ranks.size())
            << Field("blocks", shape_->blocks) << Field("block_tokens", shape_->block_tokens);
}

void Scheduler::OnLost(const absl::Status& why) {
  if (!shape_) return;
  LOG(WARNING) << "replica lost" << why;
  shape_.reset();
  in_flight_.clear();
  lost_since_ = clock_.Now();
  lost_why_ = why;
  metrics_.Set("interlace_ranks_ready", 0);
  std::vector<RequestId> retiring;
  for (auto& [id, sequence] : sequences_) {
    sequence->in_flight = false;
    if (sequence->phase == Phase::kRetiring) retiring.push_back(id);
    if (sequence->phase == Phase::kRunning) {
      BackToWaiting(*sequence, absl::StrCat("replica lost: ", why.message()));
    }
  }
  for (RequestId id : retiring) Retire(id);
  releases_.clear();
}

void Scheduler::ExpireDeadlines() {
  const absl::Time now = clock_.Now();
  std::vector<RequestId> late;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->request.deadline <= now && sequence->phase != Phase::kRetiring) late.push_back(id);
  }
  for (RequestId id : late) {
    Finish(*sequences_.at(id), absl::DeadlineExceededError("the request's deadline passed"), FinishReason::kStop);
  }
}

void Scheduler::WatchRanks() {
  const absl::Time now = clock_.Now();
  if (!in_flight_.empty()) {
    const InFlight& oldest = in_flight_.begin()->second;
    if (oldest.sent + options_.rank_timeout <= now) {
      std::string missing;
      for (size_t stage = 0; stage < shape_->stages.size(); ++stage) {
        const bool answered = std::any_of(oldest.results.begin(), oldest.results.end(), [&](const StepResult& r) {
          return Value(r.stage) == static_cast<int32_t>(stage);
        });
        if (!answered) absl::StrAppend(&missing, missing.empty() ? "" : ", ", stage);
      }
      const absl::Status why = absl::UnavailableError(
          absl::StrCat("stage ", missing, " did not answer plan ", Value(oldest.plan.id),
                       " within cluster.rank_timeout=", absl::FormatDuration(options_.rank_timeout)));
      channel_.Reset(why);
      OnLost(why);
    }
  }
  if (!shape_ && lost_since_ + options_.reform_timeout <= now) {
    while (!sequences_.empty()) {
      Finish(*sequences_.begin()->second,
             absl::UnavailableError(absl::StrCat("no replica serves the model: ", lost_why_.message())),
             FinishReason::kStop);
    }
  }
}

absl::Time Scheduler::NextWakeUp() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->phase != Phase::kRetiring) next = std::min(next, sequence->request.deadline);
  }
  if (!in_flight_.empty()) next = std::min(next, in_flight_.begin()->second.sent + options_.rank_timeout);
  if (!shape_ && !sequences_.empty()) next = std::min(next, lost_since_ + options_.reform_timeout);
  return next;
}

void Scheduler::BackToWaiting(SequenceState& sequence, std::string note) {
  const RequestId id = sequence.request.id;
  sequence.Note(std::move(note));
  sequence.phase = Phase::kWaiting;
  sequence.recomputed_from = std::max(sequence.recomputed_from, sequence.computed);
  sequence.computed = 0;
  sequence.keep = -1;
  sequence.blocks.clear();
  ledger_.NextAttempt(id);
  releases_.push_back(id);
}

void Scheduler::Finish(SequenceState& sequence, absl::Status status, FinishReason reason) {
  const absl::Time now = clock_.Now();
  const Request& request = sequence.request;
  RequestEnd end{.status = std::move(status), .reason = reason};
  end.prompt_tokens = sequence.prompt_tokens();
  end.completion_tokens = sequence.generated();
  end.timing.total = now - request.arrival;
  end.timing.queue = (sequence.started == absl::InfinitePast() ? now : sequence.started) - request.arrival;
  if (sequence.first_token != absl::InfinitePast()) end.timing.first_token = sequence.first_token - request.arrival;
  sequence.end = std::move(end);
  const bool known_to_ranks = sequence.phase == Phase::kRunning;
  sequence.phase = Phase::kRetiring;
  if (known_to_ranks) releases_.push_back(request.id);
  if (!sequence.in_flight) Retire(request.id);
}

void Scheduler::Retire(RequestId id) {
  auto node = sequences_.extract(id);
  SequenceState& sequence = *node.mapped();
  const RequestEnd& end = *sequence.end;
  if (end.status.ok()) {
    metrics_.Add("vllm:request_success_total", 1,
                 {{"finished_reason", end.reason == FinishReason::kStop ? "stop" : "length"}});
    metrics_.Observe("vllm:e2e_request_latency_seconds", absl::ToDoubleSeconds(end.timing.total));
  } else {
    metrics_.Add("interlace_requests_failed_total", 1, {{"code", absl::StatusCodeToString(end.status.code())}});
    sequence.Note(std::string(end.status.message()));
  }
  ended_.push_back(Describe(sequence));
  if (ended_.size() > 256) ended_.pop_front();
  ledger_.Close(id);
  sequence.blocks.clear();
  sequence.request.sink->OnEnd(end);
}

SequenceState* Scheduler::Find(RequestId id, uint32_t attempt) {
  auto it = sequences_.find(id);
  return it != sequences_.end() && ledger_.attempt(id) == attempt ? it->second.get() : nullptr;
}

EngineLoad Scheduler::Load() const {
  EngineLoad load;
  for (const auto& [id, sequence] : sequences_) {
    ++(sequence->phase == Phase::kWaiting ? load.waiting : load.running);
  }
  load.ranks_ready = shape_ ? static_cast<int32_t>(shape_->stages.size()) : 0;
  load.blocks_held = pool_.held();
  load.blocks = pool_.capacity();
  return load;
}

Explanation Scheduler::Describe(const SequenceState& sequence) const {
  Explanation out = sequence.explanation;
  out.keep_layers = std::max(0, sequence.keep);
  if (sequence.end) {
    out.end = *sequence.end;
    out.state = sequence.end->status.ok() ? "finished" : "failed";
    return out;
  }
  out.state = sequence.phase == Phase::kWaiting ? "waiting" : "running";
  out.end.prompt_tokens = sequence.prompt_tokens();
  out.end.completion_tokens = sequence.generated();
  out.end.timing.total = clock_.Now() - sequence.request.arrival;
  return out;
}

absl::StatusOr<Explanation> Scheduler::Explain(absl::string_view name) const {
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->request.name == name) return Describe(*sequence);
  }
  for (auto it = ended_.rbegin(); it != ended_.rend(); ++it) {
    if (it->name == name) return *it;
  }
  return absl::NotFoundError(
      absl::StrCat("no request is called '", name, "' among those running and the last 256 that ended"));
}

void Scheduler::CheckInvariants() const {
  int32_t held = 0;
  for (const auto& [id, s] : sequences_) {
    held += static_cast<int32_t>(s->blocks.size());
    CHECK_MSG(s->phase != Phase::kWaiting || (s->blocks.empty() && !s->in_flight && s->computed == 0),
              "contracts.waiting");
    CHECK_MSG(s->phase != Phase::kRetiring || s->in_flight, "contracts.retire");
    CHECK_MSG(s->phase == Phase::kRetiring || s->remaining() > 0, "contracts.positions");
    CHECK_MSG(s->generated() == static_cast<int32_t>(ledger_.accepted(id).size()), "contracts.ledger");
  }
  CHECK_MSG(held == pool_.held(), "contracts.blocks");
  CHECK_MSG(ledger_.open() == sequences_.size(), "contracts.ledger");
  CHECK_MSG(!shape_ || in_flight_.size() <= shape_->stages.size(), "contracts.plans-in-flight");
}

}  // namespace interlace
