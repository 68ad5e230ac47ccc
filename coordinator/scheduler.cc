// Scheduler: events, deadlines, ends. Plans are made in scheduler_plan.cc and scheduler_start.cc, results taken in
// scheduler_commit.cc.
#include "coordinator/scheduler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/log.h"
#include "coordinator/slo_outcome.h"

namespace interlace {
namespace {

void CountSpent(const TimeSpent& spent, Metrics& metrics) {
  for (size_t i = 0; i < kSpendings; ++i) {
    const double seconds = absl::ToDoubleSeconds(spent.of[i]);
    const std::string name(SpendingName(static_cast<Spending>(i)));
    if (seconds > 0) metrics.Add("interlace_request_seconds_total", seconds, {{"spent", name}});
  }
}

}  // namespace

Scheduler::Scheduler(const Options& options, const Policy& policy, Clock& clock, Metrics& metrics, PlanChannel& channel)
    : options_(options),
      policy_(policy),
      clock_(clock),
      metrics_(metrics),
      channel_(channel),
      learned_(options.learned) {
  drafts_.on = !options.adapt_drafts && options.draft_tokens > 0;
}

Scheduler::~Scheduler() {
  while (!sequences_.empty()) {
    Finish(*sequences_.begin()->second, absl::CancelledError("the coordinator stops"), FinishReason::kStop);
  }
  Deliver();
}

void Scheduler::RunOnce() {
  ExpireDeadlines();
  WatchRanks();
  if (ask_again_ <= clock_.Now()) ask_again_ = absl::InfiniteFuture();  // whoever it was is looked at now
  while (std::optional<StepPlan> plan = Plan()) {
    channel_.Send(*plan);
    const PlanId id = plan->id;
    const StepWork work = WorkOf(*plan);
    metrics_.planned_tokens.Add(static_cast<double>(work.rows));
    const bool follows = !std::exchange(idle_, false) && !plan->sequences.empty();
    const absl::Duration expected = ExpectInterval(*plan, work);
    in_flight_.emplace(id, InFlight{*std::move(plan), work, clock_.Now(), expected, drafts_.on, follows, {}});
  }
  if (running_.empty()) idle_ = true;
  ReleaseDue();
  Deliver();
}

// ---- events

void Scheduler::Admit(Request request) {
  const bool resumes = request.resumed != nullptr;
  if (!resumes) metrics_.prompt_tokens.Add(static_cast<double>(request.prompt.size()));
  deadlines_.emplace(request.deadline, request.id);
  const RequestId id = request.id;
  auto sequence = std::make_unique<SequenceState>(std::move(request));
  if (resumes) Resume(*sequence);
  sequence->tenant_tag = tenants_.Tag(sequence->request.targets.tenant, sequence->prompt + sequence->max_tokens);
  sequence->explanation.name = sequence->request.name;
  sequence->explanation.targets = sequence->request.targets;
  sequence->explanation.deadline = sequence->request.deadline - sequence->request.arrival;
  const auto waiting = static_cast<int64_t>(waiting_.size());
  if (!sequence->request.route.empty()) Note(*sequence, DecisionKind::kRouted, {}, sequence->request.route);
  Note(*sequence, DecisionKind::kQueued, {waiting, static_cast<int64_t>(sequences_.size()) - waiting});
  if (placement_) ExtendIds(*sequence);
  if (placement_ && options_.shed) sequence->found = placement_->Match(*sequence, sequence->prompt, PlanId{});
  Wait(*sequence);
  adapted_ |= sequence->request.adapter != nullptr;
  SequenceState& admitted = *sequences_.emplace(id, std::move(sequence)).first->second;
  if (IsComplete(admitted)) return Finish(admitted, absl::OkStatus(), FinishReason::kLength);
  if (options_.hands_over && !placement_) HandOver(admitted, NoReplica(), "replica lost");
}

void Scheduler::Cancel(RequestId id, absl::Status why) {
  if (SequenceState* sequence = Find(id)) Finish(*sequence, std::move(why), FinishReason::kStop);
}

void Scheduler::EndAll(const absl::Status& why) {
  std::vector<RequestId> ids;
  for (const auto& [id, sequence] : sequences_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (const RequestId id : ids) Cancel(id, why);
}

void Scheduler::OnFormed(Epoch epoch, absl::Span<const RankInfo> ranks) {
  if (placement_) OnLost(absl::UnavailableError("the replica was formed anew"));
  JudgeLoss(ranks);
  ChooseCosts(ranks);
  const KvPlacement::Options placement{options_.fixed_keep, options_.chunk_tokens};
  placement_ = std::make_unique<KvPlacement>(ShapeOf(ranks), placement, options_.kv_observer);
  fetch_answers_.emplace(shape()->stage_ranks);
  cost_.DivideOver(shape()->sequence_ranks);
  if (shape()->draft_model) drafts_.model.pass = shape()->draft_share;  // until a pass was seen
  stage_metrics_.clear();
  for (size_t stage = 0; stage < shape()->stages.size(); ++stage) {
    stage_metrics_.emplace_back(metrics_.registry, absl::StrCat(stage), shape()->tiers);
  }
  if (shape()->draft_model && (options_.draft_tokens == 0 || !MayModel())) {
    LOG(WARNING) << "the rank has a draft model that nobody asks: set sched.speculate to draft-model or auto";
  }
  epoch_ = epoch;
  lost_since_ = absl::InfiniteFuture();
  chains_.clear();
  for (auto& [id, sequence] : sequences_) {
    sequence->ids.clear();
    ExtendIds(*sequence);
  }
  metrics_.ranks_ready.Set(static_cast<double>(ranks.size()));
  NoteCacheShape();
  LOG(INFO) << "replica formed" << Field("epoch", Value(epoch)) << Field("ranks", ranks.size())
            << Field("slots", ranks[0].device_slots) << Field("frames", ranks[0].host_frames)
            << Field("block_tokens", shape()->block_tokens);
}

// What routers that look prefixes up themselves read of the cache.
void Scheduler::NoteCacheShape() {
  int64_t whole = std::numeric_limits<int64_t>::max();  // blocks that every stage's device holds
  for (const StageShape& stage : shape()->stages) whole = std::min(whole, stage.room.slots / stage.layers.size());
  const std::string block = absl::StrCat(shape()->block_tokens), blocks = absl::StrCat(whole);
  if (cache_shape_ == std::pair(block, blocks)) return;
  const auto set = [this](const std::pair<std::string, std::string>& of, double value) {
    metrics_.registry.Set("vllm:cache_config_info", value, {{"block_size", of.first}, {"num_gpu_blocks", of.second}});
  };
  if (!cache_shape_.first.empty()) set(cache_shape_, 0);
  cache_shape_ = {block, blocks};
  set(cache_shape_, 1);
}

void Scheduler::OnLost(const absl::Status& why) {
  if (!placement_) return;
  LOG(WARNING) << "replica lost" << why;
  metrics_.losses.Add();
  for (const Metrics::Gauge* held : {&metrics_.ranks_ready, &metrics_.running, &metrics_.blocks_held,
                                     &metrics_.blocks_cached, &metrics_.usage, &metrics_.host_usage}) {
    held->Set(0);
  }
  std::set<SequenceState*, SequenceBefore> met;  // by the loss
  for (const auto& [id, step] : in_flight_) {
    for (const PlanSequence& planned : step.plan.sequences) {
      SequenceState* sequence = Find(planned.request);
      if (sequence != nullptr && sequence->attempt == planned.attempt) met.insert(sequence);
    }
  }
  running_.clear();
  for (auto& [id, sequence] : sequences_) {
    const bool known_to_ranks = sequence->phase != Phase::kWaiting;
    if (known_to_ranks) {
      Note(*sequence, DecisionKind::kLostReplica, {}, why.message());
      sequence->computed_before = std::max(sequence->computed_before, sequence->confirmed);
      sequence->recompute_cause = "replica lost";
    }
    sequence->ForgetReplica();
    if (known_to_ranks) Wait(*sequence);
  }
  order_stale_ = true;
  asked_ = 0;
  fetching_.clear();
  computing_.clear();
  releases_.clear();  // ranks forget everything at Start
  in_flight_.clear();
  placement_.reset();
  if (options_.kv_observer != nullptr) options_.kv_observer->OnCleared();
  lost_since_ = clock_.Now();
  lost_why_ = why;
  for (SequenceState* sequence : met) sequence->met_loss = true;
  if (options_.hands_over) HandAllOver(NoReplica());
  metrics_.waiting.Set(static_cast<double>(waiting_.size()));
}

absl::Status Scheduler::NoReplica() const {
  return absl::UnavailableError(absl::StrCat("no replica serves the model: ", lost_why_.message()));
}

// Steps of other ranks take another time: the model is theirs, from an earlier run, or a new one.
void Scheduler::ChooseCosts(absl::Span<const RankInfo> ranks) {
  std::string key = CostKey(ranks);
  if (key == cost_key_) return;
  learned_ = Learned();
  const CostModel* known = learned_.Find(key);
  cost_ = known != nullptr ? *known : CostModel();
  cost_key_ = std::move(key);
  if (known != nullptr) LOG(INFO) << "costs of earlier runs" << Field("steps", cost_.seen()) << cost_.ToString();
}

LearnedCosts Scheduler::Learned() const {
  LearnedCosts all = learned_;
  if (cost_.known() && !cost_key_.empty()) all.Put(cost_key_, cost_);
  return all;
}

// Which processes came back shows whether one died. Where all did, they were only silent, and no request is to blame,
// unless it was a plan that they hung or failed at.
void Scheduler::JudgeLoss(absl::Span<const RankInfo> ranks) {
  std::vector<uint64_t> incarnations;
  for (const RankInfo& rank : ranks) incarnations.push_back(rank.incarnation);
  const bool died = std::exchange(incarnations_, incarnations) != incarnations;
  const bool blamed = std::exchange(plan_failed_, false) || died;
  std::set<SequenceState*, SequenceBefore> met;
  for (auto& [id, sequence] : sequences_) {
    if (std::exchange(sequence->met_loss, false) && blamed) met.insert(sequence.get());
  }
  for (SequenceState* sequence : met) {
    suspects_ = true;
    if (++sequence->losses >= options_.max_losses) Quarantine(*sequence, lost_why_);
  }
}

void Scheduler::Quarantine(SequenceState& sequence, const absl::Status& why) {
  metrics_.quarantined.Add();
  LOG(ERROR) << "request ended: it was in flight at each of the last losses"
             << Field("request_id", sequence.request.name) << Field("losses", sequence.losses);
  Finish(sequence,
         absl::AbortedError(absl::StrCat("request ", sequence.request.name, " was in flight at ", sequence.losses,
                                         " losses of the replica, the last time alone: ", why.message())),
         FinishReason::kStop);
}

// ---- time

void Scheduler::ExpireDeadlines() {
  const absl::Time now = clock_.Now();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Finish(*Find(deadlines_.begin()->second), absl::DeadlineExceededError("the request's deadline passed"),
           FinishReason::kStop);
  }
}

void Scheduler::WatchRanks() {
  const absl::Time now = clock_.Now();
  if (!in_flight_.empty() && in_flight_.begin()->second.sent + options_.rank_timeout <= now) {
    const InFlight& oldest = in_flight_.begin()->second;
    std::string missing;
    const int32_t stage_ranks = shape()->stage_ranks;
    for (int32_t rank = 0; rank < static_cast<int32_t>(shape()->ranks()); ++rank) {
      const bool answered = std::any_of(oldest.results.begin(), oldest.results.end(), [&](const StepResult& r) {
        return Value(r.stage) * stage_ranks + r.stage_rank == rank;
      });
      if (!answered) absl::StrAppend(&missing, missing.empty() ? "" : "; ", NameOfRank(rank, stage_ranks));
    }
    const absl::Status why = absl::UnavailableError(
        absl::StrCat(missing, " did not answer plan ", Value(oldest.plan.id),
                     " within cluster.rank_timeout=", absl::FormatDuration(options_.rank_timeout)));
    channel_.Reset(why);
    plan_failed_ = true;
    OnLost(why);
  }
  if (!placement_ && lost_since_ + options_.reform_timeout <= now) {
    while (!waiting_.empty()) {  // everybody, in the order of service
      Finish(**waiting_.begin(), NoReplica(), FinishReason::kStop);
    }
  }
}

absl::Time Scheduler::NextWakeUp() const {
  absl::Time next = deadlines_.empty() ? absl::InfiniteFuture() : deadlines_.begin()->first;
  if (!release_times_.empty()) next = std::min(next, release_times_.begin()->first);
  next = std::min(next, ask_again_);
  if (!in_flight_.empty()) next = std::min(next, in_flight_.begin()->second.sent + options_.rank_timeout);
  if (!placement_ && !sequences_.empty()) next = std::min(next, lost_since_ + options_.reform_timeout);
  return next;
}

// ---- ends

void Scheduler::Finish(SequenceState& sequence, absl::Status status, FinishReason reason, SampledToken* ended_by) {
  const absl::Time now = clock_.Now();
  const Request& request = sequence.request;
  ReleaseAll(sequence, now);
  EndAdvice(sequence);
  EndModelDrafts(sequence);
  if (sequence.bounded != nullptr) EndBounded(sequence);
  RequestEnd end{.status = std::move(status), .reason = reason};
  end.prompt_tokens = sequence.prompt;
  end.completion_tokens = sequence.generated();
  end.cached_tokens = std::max(0, sequence.cached_tokens);
  end.shed = sequence.explanation.end.shed;
  end.fidelity = ReportOf(sequence);
  if (ended_by != nullptr) {
    end.end_token = ended_by->token;
    end.end_scores = std::move(ended_by->scores);
  }
  end.timing.total = now - request.arrival;
  end.timing.queue = (sequence.started == absl::InfinitePast() ? now : sequence.started) - request.arrival;
  sequence.FillPace(&end.timing);
  if (!end.status.ok() && sequence.first_token != absl::InfinitePast()) {
    end.timing.largest_gap = std::max(end.timing.largest_gap, now - sequence.last_token);
  }
  end.met = OutcomeOf(request, end);
  CountOutcome(end, metrics_.registry);
  NoteEnd(sequence, end);
  if (end.status.ok()) {
    metrics_.registry.Add("vllm:request_success_total", 1,
                          {{"finished_reason", reason == FinishReason::kStop ? "stop" : "length"}});
    RecordEnd(sequence, end, now);
  } else {
    metrics_.registry.Add("interlace_requests_failed_total", 1,
                          {{"code", absl::StatusCodeToString(end.status.code())}});
    Note(sequence, DecisionKind::kEnded, {}, end.status.message());
  }
  ended_.push_back(Describe(sequence, now));
  ended_.back().end = end;
  CountSpent(ended_.back().spent, metrics_.registry);
  ended_.back().state = end.status.ok() ? "finished" : "failed";
  if (options_.observer != nullptr) {
    options_.observer->OnEnded({request, ended_.back(), sequence.trace, sequence.first_token, now});
  }
  if (ended_.size() > 256) ended_.pop_front();
  tenants_.Ended(request.targets.tenant, sequence.generated() - sequence.max_tokens);
  if (end.status.ok() && request.max_tokens > 0) lengths_.Ended(sequence.generated());
  if (sequence.started != absl::InfinitePast()) {
    const absl::Duration ran = now - sequence.started;
    mean_run_ = mean_run_ == absl::ZeroDuration() ? ran : mean_run_ + (ran - mean_run_) / 16;
  }
  deliveries_.push_back({request.sink.get(), Delivery::Kind::kEnd, 0, ends_.size()});
  ends_.push_back({request.sink, std::move(end)});
  Drop(sequence);
}

void Scheduler::Drop(SequenceState& sequence) {
  if (placement_) {
    if (sequence.phase == Phase::kRunning) Halt(sequence);
    std::vector<BlockId> own;
    for (const BlockEntry* entry : sequence.blocks) {
      if (entry->own) own.push_back(entry->id);
    }
    placement_->Release(sequence);
    ForgetOwn(own);
  }
  SetBelow(sequence, Below::kUnknown);
  StopWaiting(sequence);
  order_stale_ |= running_.erase(&sequence) > 0;
  fetching_.erase(std::remove(fetching_.begin(), fetching_.end(), &sequence), fetching_.end());
  deadlines_.erase({sequence.request.deadline, sequence.request.id});
  sequences_.erase(RequestId{sequence.request.id});
}

void Scheduler::RecordEnd(const SequenceState& sequence, const RequestEnd& end, absl::Time now) {
  const auto observe = [](const Metrics::Histogram& to, absl::Duration time) {
    to.Observe(absl::ToDoubleSeconds(time));
  };
  observe(metrics_.total, end.timing.total);
  metrics_.prompt_length.Observe(sequence.prompt);
  metrics_.prompt_computed.Observe(sequence.prompt - end.cached_tokens);
  if (sequence.started != absl::InfinitePast()) observe(metrics_.inference_time, now - sequence.started);
  if (sequence.request.choices > 0) metrics_.choices.Observe(sequence.request.choices);
  if (sequence.request.max_tokens == 0) return;
  metrics_.answer_length.Observe(sequence.generated());
  metrics_.longest_answer.Observe(sequence.generated());
  metrics_.max_tokens.Observe(sequence.request.max_tokens);
  if (!sequence.begun()) return;
  observe(metrics_.prefill_time, sequence.first_token - sequence.started);
  observe(metrics_.decode_time, sequence.last_token - sequence.first_token);
  if (sequence.given() > 1) observe(metrics_.per_token, end.timing.tpot);
}

void Scheduler::Deliver() {
  for (const Delivery& delivery : deliveries_) {
    switch (delivery.kind) {
      case Delivery::Kind::kCached:
        delivery.sink->OnCached(delivery.value);
        break;
      case Delivery::Kind::kFidelity:
        delivery.sink->OnFidelity(reports_[delivery.at]);
        break;
      case Delivery::Kind::kToken:
        delivery.sink->OnTokens({&delivery.value, 1});
        break;
      case Delivery::Kind::kScored:
        delivery.sink->OnScoredToken(delivery.value, scores_[delivery.at]);
        break;
      case Delivery::Kind::kPromptScores:
        delivery.sink->OnPromptScores(prompt_scores_[delivery.at]);
        break;
      case Delivery::Kind::kPooled:
        delivery.sink->OnPooled(pooled_[delivery.at].mean);
        break;
      case Delivery::Kind::kEnd:
        delivery.sink->OnEnd(ends_[delivery.at].end);
        break;
      case Delivery::Kind::kHandedOver:
        delivery.sink->OnHandedOver(std::move(handed_over_[delivery.at].request), handed_over_[delivery.at].why);
        break;
    }
  }
  deliveries_.clear();  // its memory is used again for the next step's
  reports_.clear();
  scores_.clear();
  prompt_scores_.clear();
  pooled_.clear();
  ends_.clear();
  handed_over_.clear();
}

SequenceState* Scheduler::Find(RequestId id) {
  auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

// ---- what others ask

EngineLoad Scheduler::Load() const {
  EngineLoad load;
  load.waiting = static_cast<int32_t>(waiting_.size());
  load.parked = begun_waiting_;
  load.running = static_cast<int32_t>(sequences_.size() - waiting_.size());
  load.turnover = mean_run_ / std::max(1, load.running);
  for (const auto& [id, sequence] : sequences_) {
    if (!adapted_) break;
    const auto& adapter = sequence->request.adapter;
    if (adapter == nullptr) continue;
    (running_.contains(sequence.get()) ? load.running_adapters : load.waiting_adapters).insert(adapter->name);
  }
  if (!placement_) return load;
  if (options_.hands_over) FillCosts(&load);
  load.ranks_ready = static_cast<int32_t>(shape()->ranks());
  const KvBudget& budget = placement_->budget();
  const KvAmounts& idle = placement_->directory().idle_room();
  for (size_t s = 0; s < budget.total().size(); ++s) {
    const int32_t layers = shape()->stages[s].layers.size();
    load.blocks += static_cast<int32_t>((budget.total()[s].slots + budget.total()[s].frames) / layers);
    const int64_t taken = budget.taken()[s].slots + budget.taken()[s].frames - idle[s].slots - idle[s].frames;
    load.blocks_held += static_cast<int32_t>((taken + layers - 1) / layers);
  }
  load.blocks_cached = static_cast<int32_t>(placement_->directory().idle_on_device().size() +
                                            placement_->directory().held_on_device().size() +
                                            placement_->directory().idle_on_host().size());
  return load;
}

// What a router weighs.
void Scheduler::FillCosts(EngineLoad* load) const {
  load->shares_tier = SharesTier();
  if (!cost_.known()) return;
  constexpr int32_t kPrompt = 1024;
  const int64_t block = int64_t{shape()->layers} * shape()->slot_bytes;
  load->token_seconds = absl::ToDoubleSeconds(cost_.Prefill(0, kPrompt, options_.chunk_tokens)) / kPrompt;
  load->host_block_seconds = absl::ToDoubleSeconds(cost_.Transfer(Route::kIn, block));
  load->below_block_seconds = absl::ToDoubleSeconds(cost_.Transfer(Route::kBelow, block));
}

void Scheduler::CheckInvariants() const {
  CHECK_MSG(deadlines_.size() == sequences_.size(), "contracts.deadlines: not every request has one");
  CHECK_MSG(waiting_.size() + running_.size() + fetching_.size() == sequences_.size(),
            "contracts.phases: a request is in no queue, or in two");
  CHECK_MSG(!placement_ || in_flight_.size() <= shape()->stages.size() + 1, "contracts.plans-in-flight");
  std::vector<SequenceState*> all;
  int32_t asked = 0, begun_waiting = 0;
  size_t holding = 0;
  for (const auto& [id, sequence] : sequences_) {
    all.push_back(sequence.get());
    asked += sequence->below == Below::kAsked ? 1 : 0;
    holding += sequence->deposit != nullptr && !sequence->deposit->tokens.empty() ? 1 : 0;
    begun_waiting += sequence->phase == Phase::kWaiting && sequence->begun() ? 1 : 0;
    const int32_t chosen = sequence->known + sequence->pending + options_.draft_tokens;
    CHECK_MSG(sequence->phase != Phase::kRunning ||
                  (sequence->confirmed <= sequence->scheduled && sequence->scheduled <= chosen),
              "contracts.positions: a position is planned before its token is chosen");
    if (!placement_) CHECK_MSG(sequence->blocks.empty(), "contracts.waiting: KV is held and no replica is formed");
  }
  CHECK_MSG(begun_waiting == begun_waiting_, "contracts.views: requests that wait after a token are counted wrongly");
  CHECK_MSG(holding == release_times_.size(), "contracts.release: a token is held back that nobody will release");
  CHECK_MSG(asked == asked_, "contracts.phases: the requests whose probe is not answered are counted wrongly");
  if (placement_) placement_->CheckInvariants(all);
  if (placement_ && sequences_.empty()) {
    for (const KvRoom& room : placement_->budget().taken()) {
      CHECK_MSG(room.slots >= 0 && room.frames >= 0, "contracts.blocks: more was given back than taken");
    }
  }
}

}  // namespace interlace
