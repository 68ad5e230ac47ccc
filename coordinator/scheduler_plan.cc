// Scheduler: who runs in the next step, with how many tokens, and who makes room.
#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "coordinator/policy/pace.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

constexpr int64_t kMostRaised = 512;  // extents that one plan promotes
constexpr size_t kAhead = 8;          // sequences that are asked of memory before their turn

}  // namespace

std::optional<StepPlan> Scheduler::Plan() {
  if (!placement_ || in_flight_.size() > shape()->stages.size()) return std::nullopt;
  StepPlan plan{.epoch = epoch_, .id = PlanId{next_plan_}};
  plan.sequences = std::exchange(spare_, {});
  placement_->BeginPlan();
  const StepView view = View();
  draft_ = policy_.compose(view);
  if (options_.shed) ShedLate(view);
  starts_ = draft_.starts;
  started_ = 0;
  if (SequenceState* suspect = FirstSuspect()) {
    PlanSuspect(*suspect, &plan);
  } else {
    if (waiting_.empty()) Raise();
    if (!placement_->streaming().empty()) HoldStreams();
    ChooseDrafts();
    if (PlanRunning(&plan)) PlanWaiting(&plan);
  }
  GroupAlike(&plan);
  const bool stuck = plan.sequences.empty() && plan.probes.empty() && in_flight_.empty() && !AwaitsTiers();
  if (stuck && !sequences_.empty() && MakeProgress()) return Plan();
  Attach(&plan);
  if (plan.empty()) {
    spare_ = std::move(plan.sequences);
    return std::nullopt;
  }
  DivideRows(&plan);
  ++next_plan_;
  return plan;
}

// Somebody waits for an answer that ranks give beside their results: to a probe, or to a fetch, which may be that of a
// request that is gone.
bool Scheduler::AwaitsTiers() const { return !fetching_.empty() || asked_ > 0 || placement_->AnyArriving(); }

// ---- who runs

// How many positions the sequence may have in one plan: known tokens, or the one that the rank sampled last.
int32_t Scheduler::Rows(const SequenceState& sequence, int32_t budget) const {
  if (sequence.drafting || budget <= 0) return 0;
  const int32_t known = sequence.unscheduled();
  if (known > 0) return std::min({known, options_.chunk_tokens, budget});
  // A stream that drafts, or is to be audited, does not run ahead: what may follow is guessed from the token that came
  // last.
  const bool follows = !drafts_.on && !AwaitsAudit(sequence) && sequence.pending > 0 && known == 1 - sequence.pending;
  const bool ends =
      sequence.made() >= sequence.request.max_tokens || sequence.known + sequence.pending >= options_.context;
  return follows && !ends ? 1 : 0;
}

// Streams that read layers from the host: those that the policy's bytes allow. Where there is room, one takes its
// layers back instead; the others sit this plan out, or leave the device.
void Scheduler::HoldStreams() {
  // Where the operator says how many layers stay, reading the others in each step is what was asked for.
  if (draft_.stream_bytes == std::numeric_limits<int64_t>::max() || options_.fixed_keep >= 0) return;
  const absl::Time now = clock_.Now();
  std::vector<std::pair<std::pair<bool, absl::Time>, SequenceState*>> streams;
  for (SequenceState* sequence : placement_->streaming()) {
    if (sequence->phase != Phase::kRunning || !sequence->decodes()) continue;
    if (sequence->made() >= sequence->max_tokens) continue;  // its last token is on its way
    // While its first token is on its way, it waits; a last row of the prompt is computed like those before.
    sequence->held_in = !sequence->begun() && sequence->pending > 0 ? next_plan_ : 0;
    if (sequence->begun()) streams.emplace_back(ReadingOrder(*sequence, now), sequence);
  }
  std::sort(streams.begin(), streams.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first, a.second->id) < std::pair(b.first, b.second->id);
  });
  int64_t bytes = draft_.stream_bytes + stream_credit_, wanted = 0;
  for (const auto& [order, sequence] : streams) {
    if (MayStream(*sequence, &bytes)) continue;
    sequence->held_in = next_plan_;
    if (sequence->phase != Phase::kRunning) continue;  // parked
    const int64_t reads = StreamedBytes(*sequence);
    wanted = std::max(wanted, reads);
    Note(*sequence, DecisionKind::kSatOut, {reads, std::max<int64_t>(0, bytes)});
    sequence->Spend(Spending::kSatOut, now);
  }
  // What a step leaves is saved for one that no single step can serve: it runs every so many steps.
  stream_credit_ = std::clamp<int64_t>(bytes, 0, wanted);
}

// What a step of the sequence reads from the host.
int64_t Scheduler::StreamedBytes(const SequenceState& sequence) const {
  return interlace::StreamedBytes(sequence, shape()->layers, shape()->slot_bytes);
}

// Nobody is kept from running for longer than its gap allows: then it runs, whatever it reads. Layers come back only
// while nobody waits for the rest of an answer: those who would take the room of one that needs more of it, each a
// little, would else keep it waiting for ever.
bool Scheduler::MayStream(SequenceState& sequence, int64_t* bytes) {
  if (begun_waiting_ == 0 && placement_->Raise(sequence, draft_.spare_blocks, kMostRaised)) {
    metrics_.promotions.Add();
    return sequence.kept_layers == shape()->layers;
  }
  const int64_t reads = StreamedBytes(sequence);
  sequence.explanation.step_reads = reads;
  sequence.explanation.step_budget = draft_.stream_bytes;
  const bool late = sequence.last_token + std::min(sequence.largest_gap, kNominalGap) <= clock_.Now();
  const bool alone = running_.size() == 1;
  if (reads <= *bytes || late || alone) {
    *bytes -= reads;
    return true;
  }
  if (draft_.park_streams && placement_->CouldBeWhole(sequence.known)) {
    metrics_.parks.Add();
    Note(sequence, DecisionKind::kParkedStream, {reads, std::max<int64_t>(0, *bytes)});
    Park(sequence);
  }
  return false;
}

// running_, in the policy's order; it stays as it is while those in it are parked.
const std::vector<SequenceState*>& Scheduler::RunningInOrder() {
  if (order_stale_) order_.assign(running_.begin(), running_.end());
  order_stale_ = false;
  return order_;
}

// How many of the streams [begin, end) the plan takes; these are then the first. A stream's token comes back to the
// first stage when the last one has sampled it, so on S stages the streams take turns in S groups: while one group is
// on its way, the others are computed. Four streams on two stages go A B, C D, A B, ..; three go A B, C, A B, ..
// Stages that share their cores gain nothing by that, and read their weights S times as often: there sched.turns=1 has
// all streams run together, now on one stage, now on the next.
int64_t Scheduler::TakeTurns(StreamIterator begin, StreamIterator end, int64_t streams, int64_t most) {
  if (begin == end) return 0;
  const auto stages = static_cast<int64_t>(shape()->stages.size());
  const int64_t turns = options_.turns > 0 ? std::min<int64_t>(options_.turns, stages) : stages;
  const int64_t group = std::min((streams + turns - 1) / turns, most);
  const auto groups = static_cast<uint64_t>(std::min((streams + group - 1) / group, turns));
  if (groups == 1 && end - begin <= group) return end - begin;
  std::stable_sort(begin, end, [](const SequenceState* a, const SequenceState* b) {
    return Value(a->planned_in) < Value(b->planned_in);
  });
  const auto rested =
      std::find_if(begin, end, [&](const SequenceState* s) { return Value(s->planned_in) + groups > next_plan_; });
  // If all are on their way, waiting for the earliest of them is the best that can be done.
  return std::min<int64_t>(group, rested == begin ? end - begin : rested - begin);
}

// Streams that decode come first, so that they keep their pace; then prompts, in the policy's order. True if everybody
// who runs found room, so that others may start.
bool Scheduler::PlanRunning(StepPlan* plan) {
  const int32_t all = std::min(options_.step_tokens, shape()->step_tokens);
  bool room = true;
  int64_t streams = 0;  // ready or not
  streams_.clear();
  prompts_.clear();
  const std::vector<SequenceState*>& order = RunningInOrder();
  for (size_t i = 0; i < order.size(); ++i) {
    SequenceState* const sequence = order[i];
    if (i + kAhead < order.size()) order[i + kAhead]->Prefetch();
    // Parked just now, by one before it; or it sits this plan out.
    if (sequence->phase != Phase::kRunning || sequence->held_in == next_plan_) continue;
    const bool decodes = sequence->decodes();
    streams += decodes ? 1 : 0;
    const int32_t rows = Rows(*sequence, all);
    if (rows == 0) continue;
    if (ReserveFor(*sequence, rows, &room)) {
      (decodes ? streams_ : prompts_).push_back(sequence);
    } else {
      room = false;
    }
  }
  // Streams leave rows to those who have none yet, so that everybody gets on.
  const auto begun = static_cast<int32_t>(sequences_.size() - waiting_.size());
  const bool others = !prompts_.empty() || (!waiting_.empty() && begun < options_.max_running);
  const int64_t most = others && all > 1 ? all - std::max(1, all / 4) : all;
  int64_t share = TakeTurns(streams_.begin(), streams_.end(), streams, most);
  plan->sequences.reserve(static_cast<size_t>(share) + prompts_.size());
  int32_t budget = all;
  // How many rows of `rows` the sequence takes.
  const auto add = [&](SequenceState& sequence, int32_t rows) {
    if (!AddToPlan(sequence, rows, plan)) {
      room = room && budget <= 0;
      return 0;
    }
    return static_cast<int32_t>(plan->sequences.back().tokens.size());
  };
  for (auto it = streams_.begin(); share > 0; ++it, --share) budget -= add(**it, budget);
  prompt_rows_ = std::min(budget, draft_.prompt_rows);
  for (SequenceState* prompt : prompts_) {
    if (prompt_rows_ <= 0) break;
    const int32_t most = std::min(budget, options_.chunk_tokens);
    const int32_t hidden = RowsThatHide(cost_, prompt->scheduled, most, StreamedBytes(*prompt));
    const int32_t rows = add(*prompt, std::max(prompt_rows_, hidden));
    budget -= rows;
    prompt_rows_ = std::max(0, prompt_rows_ - rows);
  }
  return room;
}

void Scheduler::PlanWaiting(StepPlan* plan) {
  if (waiting_.empty()) return;
  int32_t budget = prompt_rows_;
  std::vector<SequenceState*> first;  // starting takes them out of the queue
  for (auto it = waiting_.begin(); it != waiting_.end() && first.size() < kMostLookedAt; ++it) first.push_back(*it);
  bool resumes = true;
  for (SequenceState* next : first) {
    SequenceState& sequence = *next;
    if (budget <= 0) return Note(sequence, DecisionKind::kNoRows, {prompt_rows_});
    if (sequence.begun() && !resumes) continue;
    // Whole, it would take the room that another waits for.
    if (!resumes && starts_ <= 0) return Note(sequence, DecisionKind::kBehindParked);
    const auto begun = static_cast<int32_t>(sequences_.size() - waiting_.size());
    if (begun >= options_.max_running) return Note(sequence, DecisionKind::kRunningBound, {begun});
    const bool alone = running_.empty() && fetching_.empty() && in_flight_.empty();
    const Started started = TryStart(sequence, LimitsFor(sequence, alone), plan);
    if (started == Started::kNoRoom) {  // nobody overtakes whom memory alone holds up, unless the policy says so
      if (!draft_.overtake || !sequence.begun()) return;
      resumes = false;
      draft_.most_layers = 0;  // what becomes free is for those who wait for the rest of their answer
    }
    if (started != Started::kYes || sequence.phase != Phase::kRunning) continue;
    if (AddToPlan(sequence, budget, plan)) budget -= static_cast<int32_t>(plan->sequences.back().tokens.size());
  }
}

// ---- a request that may have brought the replica down

SequenceState* Scheduler::FirstSuspect() {
  if (!suspects_) return nullptr;
  const auto suspect = [](const SequenceState* s) { return s->losses >= 2; };
  for (const Ordered* queue : {&running_, &waiting_}) {
    auto it = std::find_if(queue->begin(), queue->end(), suspect);
    if (it != queue->end()) return *it;
  }
  suspects_ = !fetching_.empty();
  return nullptr;
}

// A suspect runs alone, so that nobody else is in flight if it brings the replica down again, until it gets a token.
void Scheduler::PlanSuspect(SequenceState& suspect, StepPlan* plan) {
  auto other = std::find_if(waiting_.begin(), waiting_.end(), [&](const SequenceState* s) { return s != &suspect; });
  if (other != waiting_.end()) Note(**other, DecisionKind::kSuspectAlone, {suspect.losses}, suspect.request.name);
  if (!in_flight_.empty()) return;
  bool room = true;
  while (suspect.phase == Phase::kWaiting) {
    const Started started = TryStart(suspect, {}, plan);
    if (started == Started::kLater) return;
    if (started == Started::kYes) break;
    if (running_.empty()) return;
    Note(**running_.rbegin(), DecisionKind::kParkedForSuspect, {}, suspect.request.name);
    Park(**running_.rbegin());
  }
  const int32_t all = std::min(options_.step_tokens, shape()->step_tokens);
  const int32_t rows = suspect.phase == Phase::kRunning ? Rows(suspect, all) : 0;
  if (rows > 0 && ReserveFor(suspect, rows, &room)) AddToPlan(suspect, all, plan);
}

// ---- who makes room

// Room for the sequence's next positions: out of the cache, from layers that others keep, from those that come after it
// in the policy's order. Nobody gives anything unless it is enough.
bool Scheduler::ReserveFor(SequenceState& sequence, int32_t rows, bool* room) {
  const int32_t end = sequence.scheduled + rows;
  if (placement_->PassWindows(sequence, sequence.scheduled) && placement_->Reserve(sequence, end)) return true;
  return MakeRoomFor(sequence, end, room);
}

bool Scheduler::MakeRoomFor(SequenceState& sequence, int32_t end, bool* room) {
  const bool shift =
      draft_.give_way == GiveWay::kLower || sequence.kept_layers < shape()->layers || running_.size() == 1;
  if (placement_->Refit(sequence, end, shift)) return true;
  const std::vector<SequenceState*> running(running_.begin(), running_.end());
  if (placement_->LowerFor(sequence, end, ThoseToLower(sequence, running)) && placement_->Reserve(sequence, end)) {
    return true;
  }
  std::vector<SequenceState*> victims;
  for (auto it = running.rbegin(); it != running.rend() && *it != &sequence; ++it) {
    victims.push_back(*it);
    if (!placement_->ParkingHelps(sequence, end, victims, shift)) continue;
    for (SequenceState* victim : victims) GiveWayTo(sequence, *victim);
    *room = false;
    return placement_->Refit(sequence, end, shift);
  }
  return false;
}

// Of those who run, in order, whoever may keep fewer layers so that the sequence has room.
absl::Span<SequenceState* const> Scheduler::ThoseToLower(const SequenceState& sequence,
                                                         const std::vector<SequenceState*>& running) const {
  if (draft_.give_way == GiveWay::kLower) return running;
  if (draft_.give_way != GiveWay::kLowerLast || !LinkHasTime()) return {};
  const auto at = std::find(running.begin(), running.end(), &sequence);
  return absl::MakeConstSpan(running).subspan(at - running.begin() + (at == running.end() ? 0 : 1));
}

// A step has time to bring more from the host than those who stream read of it.
bool Scheduler::LinkHasTime() const {
  int64_t reads = 0;
  for (const SequenceState* streaming : placement_->streaming()) reads += StreamedBytes(*streaming);
  return reads < draft_.stream_bytes;
}

void Scheduler::GiveWayTo(SequenceState& sequence, SequenceState& victim) {
  metrics_.preemptions.Add();
  ++victim.explanation.preemptions;
  const absl::string_view whom = sequence.request.name;
  if (draft_.give_way != GiveWay::kRecompute) {
    metrics_.parks.Add();
    Note(victim, DecisionKind::kParkedForRoom, {}, whom);
    return Park(victim);
  }
  Note(victim, DecisionKind::kPreempted, {}, whom);
  Park(victim);
  placement_->Release(victim);
}

// Nothing is in flight and nobody can be planned. Whoever comes last gives up its room, or what is held for it; a
// request that does not fit with all room free never will: ranks that formed anew hold less than it was admitted for.
bool Scheduler::MakeProgress() {
  if (running_.size() > 1) {
    metrics_.parks.Add();
    Note(**running_.rbegin(), DecisionKind::kParkedAllStuck);
    Park(**running_.rbegin());
    return true;
  }
  SequenceState* first = running_.empty() ? *waiting_.begin() : *running_.begin();
  for (auto it = waiting_.rbegin(); it != waiting_.rend(); ++it) {
    if (*it == first || !(*it)->parked()) continue;
    Note(**it, DecisionKind::kHeldGivenUp);
    placement_->Release(**it);
    return true;
  }
  absl::Status why = KvPlacement::CheckCanRun(*shape(), {options_.fixed_keep, options_.chunk_tokens}, first->known);
  // It fits alone, with other layers kept or with its blocks elsewhere: what lies where it is in the way gives way.
  if (why.ok() && first->phase == Phase::kRunning) {
    metrics_.parks.Add();
    Note(*first, DecisionKind::kParkedToRefit);
    Park(*first);
    return true;
  }
  if (why.ok() && placement_->directory().size() > 0) {
    Note(*first, DecisionKind::kCacheGivenUp);
    placement_->Release(*first);
    placement_->ForgetCache();
    return true;
  }
  if (why.ok()) why = absl::ResourceExhaustedError("the request's next step does not fit the replica");
  Finish(*first, std::move(why), FinishReason::kStop);
  return !sequences_.empty();
}

// Layers come back to those who gave them up, in the policy's order, when room comes back.
void Scheduler::Raise() {
  SequenceState* first = nullptr;  // one at a time
  for (SequenceState* sequence : placement_->streaming()) {
    const bool sooner = first == nullptr || running_.key_comp()(sequence, first);
    if (sequence->phase == Phase::kRunning && sooner) first = sequence;
  }
  if (first != nullptr && placement_->Raise(*first, 1 + 2 * draft_.spare_blocks, kMostRaised))
    metrics_.promotions.Add();
}

// ---- the plan

bool Scheduler::AddToPlan(SequenceState& sequence, int32_t budget, StepPlan* plan) {
  const int32_t count = Rows(sequence, budget);
  if (count == 0) return false;
  if (placement_->AnyArriving() && Awaited(sequence, sequence.scheduled + count)) return false;
  if (!placement_->Stream(sequence, sequence.scheduled + count, plan->id)) return false;
  FillPlanned(sequence, count, plan);
  if (sequence.skips) {
    AddAudit(sequence, budget - 1, plan);
  } else if (drafts_.on && sequence.pending == 1 && count == 1) {
    AddDrafts(sequence, budget - 1, plan);
  }
  if (sequence.started != absl::InfinitePast()) return true;
  sequence.started = clock_.Now();
  metrics_.queue.Observe(absl::ToDoubleSeconds(sequence.started - sequence.request.arrival));
  return true;
}

// A block that the sequence would seal is on its way from the tiers for another request. Two copies of one block would
// need room for both, so the sequence lets the block arrive, or fail to.
bool Scheduler::Awaited(const SequenceState& sequence, int32_t end) const {
  for (int32_t b = sequence.named; b < end / shape()->block_tokens; ++b) {
    if (placement_->Arriving(sequence, b)) return true;
  }
  return false;
}

void Scheduler::FillPlanned(SequenceState& sequence, int32_t count, StepPlan* plan) {
  PlanSequence& planned = plan->sequences.emplace_back();
  planned.request = sequence.request.id;
  planned.attempt = sequence.attempt;
  planned.start = sequence.scheduled;
  const int32_t end = planned.start + count;
  if (planned.start < sequence.known) {
    planned.tokens.assign(sequence.tokens.begin() + planned.start, sequence.tokens.begin() + end);
  } else {
    planned.tokens.push_back(kLastSample);
  }
  planned.sample = end == sequence.known + sequence.pending && sequence.request.max_tokens > 0;
  planned.sample_index = sequence.generated() + sequence.pending;
  if (!sequence.opened) {
    Opening& opening = planned.opening.emplace();
    opening.sampling = sequence.request.sampling;
    opening.adapter = std::string(AdapterDigest(sequence.request));
    opening.adopted.assign(sequence.ids.begin(), sequence.ids.begin() + sequence.adopted);
    opening.prefix.assign(sequence.tokens.begin(), sequence.tokens.begin() + planned.start);
  }
  AskOfPrompt(sequence, &planned);
  if (sequence.kept_changed) planned.kept = placement_->TakeKept(sequence);
  sequence.opened = true;
  if (sequence.skips) PlanSkip(sequence, &planned);
  const bool unnamed = sequence.named < static_cast<int32_t>(sequence.ids.size());
  if (unnamed) planned.names = NamesFor(sequence, end, plan->id);
  if (const int32_t again = std::min(end, sequence.computed_before) - planned.start; again > 0) {
    sequence.explanation.recomputed_tokens += again;
    metrics_.registry.Add("interlace_recomputed_tokens_total", again, {{"cause", sequence.recompute_cause}});
  }
  if (sequence.spending == Spending::kSatOut) sequence.Spend(Spending::kDecode, clock_.Now());
  sequence.scheduled = end;
  sequence.planned_in = plan->id;
  ++sequence.in_flight;
  if (planned.sample) ++sequence.pending;
}

// Of the prompt's positions in the plan, what the request wants besides their KV and does not have yet.
void Scheduler::AskOfPrompt(const SequenceState& sequence, PlanSequence* planned) const {
  const Request& request = sequence.request;
  const int32_t end = planned->start + static_cast<int32_t>(planned->tokens.size());
  if (planned->start < sequence.prompt) planned->key = KeyAskFor(sequence, end);
  if (request.pooled) planned->pool = end == sequence.prompt ? Pooling::kGive : Pooling::kAdd;
  if (request.prompt_logprobs < 0) return;
  const int32_t from = std::max(planned->start, sequence.scored_rows), to = std::min(end, sequence.prompt - 1);
  if (from >= to) return;
  ScoreAsk& ask = planned->score.emplace();
  ask.first = from - planned->start;
  ask.top = request.prompt_logprobs;
  ask.targets.assign(sequence.tokens.begin() + from + 1, sequence.tokens.begin() + to + 1);
}

// Rows that pass over the same sublayers side by side, and of these those of one adapter: ranks compute them together.
void Scheduler::GroupAlike(StepPlan* plan) {
  if (!adapted_ && !plan->skips()) return;
  const auto key_of = [&](const PlanSequence& planned) {
    const absl::string_view adapter = AdapterDigest(sequences_.find(planned.request)->second->request);
    if (!planned.skip) return std::tuple(std::string(), std::string(), adapter);
    return std::tuple(planned.skip->attention.Encode(), planned.skip->feed_forward.Encode(), adapter);
  };
  std::stable_sort(plan->sequences.begin(), plan->sequences.end(),
                   [&](const PlanSequence& a, const PlanSequence& b) { return key_of(a) < key_of(b); });
}

void Scheduler::Attach(StepPlan* plan) {
  plan->releases = std::exchange(releases_, {});
  for (SequenceState* sequence : placement_->Changed()) {
    if (!sequence->opened) continue;  // its first plan says it
    const int32_t before = std::exchange(sequence->explanation.keep_layers, sequence->kept.size());
    const bool more = sequence->explanation.keep_layers >= before;
    Note(*sequence, more ? DecisionKind::kPromoted : DecisionKind::kLowered,
         {sequence->explanation.keep_layers, shape()->layers, before});
    plan->changes.push_back({sequence->request.id, placement_->TakeKept(*sequence), std::nullopt});
  }
  plan->moves = placement_->TakeMoves();
}

}  // namespace interlace
