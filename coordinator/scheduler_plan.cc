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
constexpr size_t kMostLookedAt = 64;  // waiting requests that one plan tries to start

}  // namespace

std::optional<StepPlan> Scheduler::Plan() {
  if (!placement_ || in_flight_.size() > shape()->stages.size()) return std::nullopt;
  StepPlan plan{.epoch = epoch_, .id = PlanId{next_plan_}};
  placement_->BeginPlan();
  tightest_ = absl::InfiniteFuture();
  if (SequenceState* suspect = FirstSuspect()) {
    PlanSuspect(*suspect, &plan);
  } else {
    if (waiting_.empty()) Raise();
    if (PlanRunning(&plan)) PlanWaiting(&plan);
  }
  const bool stuck = plan.sequences.empty() && plan.probes.empty() && in_flight_.empty() && !AwaitsTiers();
  if (stuck && !sequences_.empty() && MakeProgress()) return Plan();
  Attach(&plan);
  if (plan.empty()) return std::nullopt;
  ++next_plan_;
  return plan;
}

// Somebody waits for an answer that ranks give beside their results: to a probe, or to a fetch, which may be that of a
// request that is gone.
bool Scheduler::AwaitsTiers() const {
  const auto asked = [](const SequenceState* s) { return s->below == Below::kAsked; };
  return !fetching_.empty() || std::any_of(waiting_.begin(), waiting_.end(), asked) || placement_->AnyArriving();
}

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

// Streams that decode come first, so that they keep their pace; then prompts, in the policy's order. On several stages
// the streams are spread over the plans in flight. True if everybody who runs found room, so that others may start.
bool Scheduler::PlanRunning(StepPlan* plan) {
  const std::vector<SequenceState*> order(running_.begin(), running_.end());
  const int32_t all = std::min(options_.step_tokens, shape()->step_tokens);
  bool room = true;
  std::vector<SequenceState*> ready;
  ready.reserve(order.size());
  for (SequenceState* sequence : order) {
    if (sequence->phase != Phase::kRunning || Rows(*sequence, all) == 0) continue;
    if (ReserveFor(*sequence, &room)) {
      ready.push_back(sequence);
    } else {
      room = false;
    }
  }
  const auto parked = [](const SequenceState* s) { return s->phase != Phase::kRunning; };
  ready.erase(std::remove_if(ready.begin(), ready.end(), parked), ready.end());
  const auto prompts =
      std::stable_partition(ready.begin(), ready.end(), [](const SequenceState* s) { return s->decodes(); });
  const auto stages = static_cast<int64_t>(shape()->stages.size());
  const int64_t streams =
      std::count_if(order.begin(), order.end(), [](const SequenceState* s) { return s->decodes(); });
  // Streams leave rows to those who have none yet, so that everybody gets on.
  const auto begun = static_cast<int32_t>(sequences_.size() - waiting_.size());
  const bool others = prompts != ready.end() || (!waiting_.empty() && begun < options_.max_running);
  const int64_t most = others && all > 1 ? all - std::max(1, all / 4) : all;
  int64_t share = std::min<int64_t>(prompts - ready.begin(), (streams + stages - 1) / stages);
  if (share > most) {  // not all fit into one plan: this one begins behind the last of the former
    share = most;
    const auto next =
        std::find_if(ready.begin(), prompts, [&](const SequenceState* s) { return s->request.id == served_last_; });
    if (next != prompts) std::rotate(ready.begin(), next + 1, prompts);
  }
  plan->sequences.reserve(static_cast<size_t>(share + (ready.end() - prompts)));
  int32_t budget = all;
  for (auto it = ready.begin(); it != ready.end(); ++it) {
    if (it < prompts && share-- <= 0) continue;
    if (!AddToPlan(**it, budget, plan)) {
      room = room && budget <= 0;
      continue;
    }
    budget -= static_cast<int32_t>(plan->sequences.back().tokens.size());
    if (it < prompts) served_last_ = (*it)->request.id;
  }
  return room;
}

void Scheduler::PlanWaiting(StepPlan* plan) {
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
  if (suspect.phase != Phase::kRunning || Rows(suspect, options_.step_tokens) == 0) return;
  if (ReserveFor(suspect, &room)) AddToPlan(suspect, std::min(options_.step_tokens, shape()->step_tokens), plan);
}

// ---- who makes room

// Room for the sequence's next positions: out of the cache, from layers that others keep, from those that come after it
// in the policy's order. Nobody gives anything unless it is enough.
bool Scheduler::ReserveFor(SequenceState& sequence, bool* room) {
  const int32_t end = sequence.scheduled + Rows(sequence, options_.step_tokens);
  if (placement_->PassWindows(sequence, sequence.scheduled) && placement_->Reserve(sequence, end)) return true;
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
  // It fits alone, with other layers kept or with its blocks elsewhere: what lies where it is in the way gives way.
  if (why.ok() && first->phase == Phase::kRunning) {
    metrics_.parks.Add();
    Park(*first, "parked: it begins again with other layers kept");
    return true;
  }
  if (why.ok() && placement_->directory().size() > 0) {
    first->Note("what was held for it and what is cached is given up: it does not fit beside them");
    placement_->Release(*first);
    placement_->ForgetCache();
    return true;
  }
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
  for (SequenceState* sequence : running_) {
    if (placement_->streaming().empty()) return;
    if (sequence->kept == shape()->all) continue;
    if (placement_->Raise(*sequence, 1 + 2 * SpareBlocks(), kMostRaised)) {
      metrics_.promotions.Add();
    }
    return;  // one at a time
  }
}

// ---- the plan

bool Scheduler::AddToPlan(SequenceState& sequence, int32_t budget, StepPlan* plan) {
  const int32_t count = Rows(sequence, budget);
  if (count == 0 || Awaited(sequence, sequence.scheduled + count)) return false;
  if (!placement_->Reserve(sequence, sequence.scheduled + count)) return false;
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
  planned.names = NamesFor(sequence, end, plan->id);
  if (const int32_t again = std::min(end, sequence.computed_before) - planned.start; again > 0) {
    sequence.explanation.recomputed_tokens += again;
    metrics_.recomputed_after_park.Add(again);
  }
  sequence.scheduled = end;
  tightest_ = std::min(tightest_, sequence.request.deadline);
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
  const std::vector<int32_t> drafts = DraftFromContext(sequence.tokens, most);
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
  metrics_.planned_tokens.Add(plan->tokens());
  plan->remaining = tightest_ - clock_.Now();
}

}  // namespace interlace
