// Scheduler: who runs in the next step, with how many tokens, and who makes room.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "coordinator/ngram_drafter.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

constexpr int64_t kMostRaised = 512;  // extents that one plan promotes
constexpr size_t kAhead = 8;          // sequences that are asked of memory before their turn
constexpr size_t kMostLookedAt = 64;  // waiting requests that one plan tries to start

}  // namespace

std::optional<StepPlan> Scheduler::Plan() {
  if (!placement_ || in_flight_.size() > shape()->stages.size()) return std::nullopt;
  StepPlan plan{.epoch = epoch_, .id = PlanId{next_plan_}};
  plan.sequences = std::exchange(spare_, {});
  placement_->BeginPlan();
  if (SequenceState* suspect = FirstSuspect()) {
    PlanSuspect(*suspect, &plan);
  } else {
    if (waiting_.empty()) Raise();
    if (PlanRunning(&plan)) PlanWaiting(&plan);
  }
  const bool stuck = plan.sequences.empty() && plan.probes.empty() && in_flight_.empty() && !AwaitsTiers();
  if (stuck && !sequences_.empty() && MakeProgress()) return Plan();
  Attach(&plan);
  if (plan.empty()) {
    spare_ = std::move(plan.sequences);
    return std::nullopt;
  }
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
  // A stream that drafts does not run ahead: what may follow is guessed from the token that came last.
  const bool follows = shape()->stages.size() == 1 && options_.draft_tokens == 0 && sequence.pending > 0 &&
                       known == 1 - sequence.pending;
  const bool ends = sequence.generated() + sequence.pending >= sequence.request.max_tokens ||
                    sequence.length() + sequence.pending >= options_.context;
  return follows && !ends ? 1 : 0;
}

// running_, in the policy's order; it stays as it is while those in it are parked.
const std::vector<SequenceState*>& Scheduler::RunningInOrder() {
  if (order_stale_) order_.assign(running_.begin(), running_.end());
  order_stale_ = false;
  return order_;
}

// Streams that decode come first, so that they keep their pace; then prompts, in the policy's order. On several stages
// the streams are spread over the plans in flight. True if everybody who runs found room, so that others may start.
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
    if (sequence->phase != Phase::kRunning) continue;  // parked just now, by one before it
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
  const auto stages = static_cast<int64_t>(shape()->stages.size());
  // Streams leave rows to those who have none yet, so that everybody gets on.
  const auto begun = static_cast<int32_t>(sequences_.size() - waiting_.size());
  const bool others = !prompts_.empty() || (!waiting_.empty() && begun < options_.max_running);
  const int64_t most = others && all > 1 ? all - std::max(1, all / 4) : all;
  int64_t share = std::min<int64_t>(static_cast<int64_t>(streams_.size()), (streams + stages - 1) / stages);
  if (share > most) {  // not all fit into one plan: this one begins behind the last of the former
    share = most;
    const auto served = [&](const SequenceState* s) { return s->request.id == served_last_; };
    const auto next = std::find_if(streams_.begin(), streams_.end(), served);
    if (next != streams_.end()) std::rotate(streams_.begin(), next + 1, streams_.end());
  }
  plan->sequences.reserve(static_cast<size_t>(share) + prompts_.size());
  int32_t budget = all;
  const auto add = [&](SequenceState& sequence) {
    if (!AddToPlan(sequence, budget, plan)) {
      room = room && budget <= 0;
      return false;
    }
    budget -= static_cast<int32_t>(plan->sequences.back().tokens.size());
    return true;
  };
  for (auto it = streams_.begin(); it != streams_.end() && share-- > 0; ++it) {
    if (add(**it)) served_last_ = (*it)->request.id;
  }
  for (SequenceState* prompt : prompts_) add(*prompt);
  return room;
}

void Scheduler::PlanWaiting(StepPlan* plan) {
  if (waiting_.empty()) return;
  int32_t budget = std::min(options_.step_tokens, shape()->step_tokens) - plan->tokens();
  std::vector<SequenceState*> first;  // starting takes them out of the queue
  for (auto it = waiting_.begin(); it != waiting_.end() && first.size() < kMostLookedAt; ++it) first.push_back(*it);
  for (SequenceState* next : first) {
    SequenceState& sequence = *next;
    if (budget <= 0) return;
    if (static_cast<int32_t>(sequences_.size() - waiting_.size()) >= options_.max_running) return;
    const bool alone = running_.empty() && fetching_.empty() && in_flight_.empty();
    const Started started = TryStart(sequence, alone, plan);
    if (started == Started::kNoRoom) return;  // nobody overtakes whom memory alone holds up
    if (started == Started::kLater || sequence.phase != Phase::kRunning) continue;
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
  if (!in_flight_.empty()) return;
  bool room = true;
  while (suspect.phase == Phase::kWaiting) {
    const Started started = TryStart(suspect, /*alone=*/true, plan);
    if (started == Started::kLater) return;
    if (started == Started::kYes) break;
    if (running_.empty()) return;
    Park(**running_.rbegin(), "set aside: a request that may bring the replica down runs alone");
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
  if (placement_->Refit(sequence, end)) return true;
  const std::vector<SequenceState*> running(running_.begin(), running_.end());
  if (placement_->LowerFor(sequence, end, running) && placement_->Reserve(sequence, end)) return true;
  std::vector<SequenceState*> victims;
  for (auto it = running.rbegin(); it != running.rend() && *it != &sequence; ++it) {
    victims.push_back(*it);
    if (!placement_->ParkingHelps(sequence, end, victims)) continue;
    for (SequenceState* victim : victims) {
      metrics_.parks.Add();
      metrics_.preemptions.Add();
      ++victim->explanation.preemptions;
      Park(*victim, absl::StrCat("parked: request ", sequence.request.name, ", which came before it, needs room"));
    }
    *room = false;
    return placement_->Refit(sequence, end);
  }
  return false;
}

// Nothing is in flight and nobody can be planned. Whoever comes last gives up its room, or what is held for it; a
// request that does not fit with all room free never will: ranks that formed anew hold less than it was admitted for.
bool Scheduler::MakeProgress() {
  if (running_.size() > 1) {
    metrics_.parks.Add();
    Park(**running_.rbegin(), "parked: the device holds too few blocks for all that run");
    return true;
  }
  SequenceState* first = running_.empty() ? *waiting_.begin() : *running_.begin();
  for (auto it = waiting_.rbegin(); it != waiting_.rend(); ++it) {
    if (*it == first || !(*it)->parked()) continue;
    (*it)->Note("what was held for it is given up: those before it need the room");
    placement_->Release(**it);
    return true;
  }
  absl::Status why = KvPlacement::CheckCanRun(*shape(), {options_.fixed_keep, options_.chunk_tokens}, first->length());
  if (why.ok()) why = absl::ResourceExhaustedError("the request's next step does not fit the replica");
  Finish(*first, std::move(why), FinishReason::kStop);
  return !sequences_.empty();
}

int32_t Scheduler::SpareBlocks() const {
  int64_t most = std::numeric_limits<int32_t>::max();
  for (const StageShape& stage : shape()->stages) most = std::min(most, stage.room.slots / stage.layers.size() / 8);
  return static_cast<int32_t>(std::min<int64_t>(most, static_cast<int64_t>(running_.size())));
}

// Layers come back to those who gave them up, in the policy's order, when room comes back.
void Scheduler::Raise() {
  SequenceState* first = nullptr;  // one at a time
  for (SequenceState* sequence : placement_->streaming()) {
    const bool sooner = first == nullptr || running_.key_comp()(sequence, first);
    if (sequence->phase == Phase::kRunning && sooner) first = sequence;
  }
  if (first != nullptr && placement_->Raise(*first, 1 + 2 * SpareBlocks(), kMostRaised)) metrics_.promotions.Add();
}

// ---- the plan

bool Scheduler::AddToPlan(SequenceState& sequence, int32_t budget, StepPlan* plan) {
  const int32_t count = Rows(sequence, budget);
  if (count == 0 || Awaited(sequence, sequence.scheduled + count)) return false;
  if (!placement_->Stream(sequence, sequence.scheduled + count, plan->id)) return false;
  FillPlanned(sequence, count, plan);
  if (options_.draft_tokens > 0 && sequence.pending == 1 && count == 1) AddDrafts(sequence, budget - 1, plan);
  if (sequence.started != absl::InfinitePast()) return true;
  sequence.started = clock_.Now();
  metrics_.queue.Observe(absl::ToDoubleSeconds(sequence.started - sequence.request.arrival));
  return true;
}

// A block that the sequence would seal is on its way from the tiers for another request. Two copies of one block would
// need room for both, so the sequence lets the block arrive, or fail to.
bool Scheduler::Awaited(const SequenceState& sequence, int32_t end) const {
  if (!placement_->AnyArriving()) return false;
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
  if (planned.start < sequence.length()) {
    planned.tokens.assign(sequence.tokens.begin() + planned.start, sequence.tokens.begin() + end);
  } else {
    planned.tokens.push_back(kLastSample);
  }
  planned.sample = end == sequence.length() + sequence.pending;
  planned.sample_index = sequence.generated() + sequence.pending;
  if (!sequence.opened) {
    Opening& opening = planned.opening.emplace();
    opening.sampling = sequence.request.sampling;
    opening.adopted.assign(sequence.ids.begin(), sequence.ids.begin() + sequence.adopted);
    opening.prefix.assign(sequence.tokens.begin(), sequence.tokens.begin() + planned.start);
  }
  if (sequence.kept_changed) planned.kept = placement_->TakeKept(sequence);
  sequence.opened = true;
  const bool unnamed = sequence.named < static_cast<int32_t>(sequence.ids.size());
  if (unnamed) planned.names = NamesFor(sequence, end, plan->id);
  if (const int32_t again = std::min(end, sequence.computed_before) - planned.start; again > 0) {
    sequence.explanation.recomputed_tokens += again;
    metrics_.registry.Add("interlace_recomputed_tokens_total", again, {{"cause", sequence.recompute_cause}});
  }
  sequence.scheduled = end;
  ++sequence.in_flight;
  if (planned.sample) ++sequence.pending;
}

// The step verifies what the sequence may say next: tokens that followed its last ones before.
void Scheduler::AddDrafts(SequenceState& sequence, int32_t budget, StepPlan* plan) {
  PlanSequence& planned = plan->sequences.back();
  const int32_t left =
      std::min(sequence.request.max_tokens - sequence.generated(), options_.context - sequence.length()) - 1;
  // A plan samples in as many rows as there may be streams; each stream that may still join it has one.
  int32_t rows = std::min(options_.max_running, options_.step_tokens) - static_cast<int32_t>(running_.size());
  for (const PlanSequence& other : plan->sequences) rows -= other.drafts;
  const int32_t most = std::min({options_.draft_tokens, budget, left, rows});
  if (planned.tokens[0] == kLastSample || most <= 0) return;
  if (sequence.drafter == nullptr) sequence.drafter = std::make_unique<NgramDrafter>();
  const std::vector<int32_t> drafts = sequence.drafter->Draft(sequence.tokens, most);
  const int32_t end = sequence.scheduled + static_cast<int32_t>(drafts.size());
  if (drafts.empty() || !placement_->Reserve(sequence, end)) return;
  if (!placement_->Stream(sequence, end, plan->id)) return;
  planned.tokens.insert(planned.tokens.end(), drafts.begin(), drafts.end());
  planned.drafts = static_cast<int32_t>(drafts.size());
  sequence.scheduled = end;
  sequence.drafting = true;
}

void Scheduler::Attach(StepPlan* plan) {
  plan->releases = std::exchange(releases_, {});
  for (SequenceState* sequence : placement_->Changed()) {
    if (!sequence->opened) continue;  // its first plan says it
    sequence->Note(absl::StrCat("keeps ", sequence->kept.size(), " of ", shape()->layers, " layers from now on"));
    plan->changes.push_back({sequence->request.id, placement_->TakeKept(*sequence), std::nullopt});
  }
  plan->moves = placement_->TakeMoves();
}

}  // namespace interlace
