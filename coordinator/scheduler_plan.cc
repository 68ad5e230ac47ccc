// Scheduler: who runs in the next step, with how many tokens, and which layers stay.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler.h"

namespace interlace {

std::optional<StepPlan> Scheduler::Plan() {
  if (!shape_ || in_flight_.size() >= shape_->stages.size()) return std::nullopt;
  StepPlan plan{.epoch = epoch_, .id = PlanId{next_plan_}};
  int32_t budget = options_.step_tokens;

  // Streams that decode come first, spread over the plans in flight; then prompts, in the policy's order.
  std::vector<SequenceState*> running = Ordered(Phase::kRunning);
  const auto decodes = [](const SequenceState* s) { return s->remaining() == 1; };
  const auto stages = static_cast<int64_t>(shape_->stages.size());
  const int64_t share = (std::count_if(running.begin(), running.end(), decodes) + stages - 1) / stages;
  std::stable_partition(running.begin(), running.end(), decodes);
  int64_t decoding = 0;
  bool parked = false;  // someone who runs found no room: nobody new may take it
  for (SequenceState* sequence : running) {
    const bool decode = decodes(sequence);
    if (sequence->phase != Phase::kRunning || sequence->in_flight || (decode && decoding >= share)) continue;
    if (AddToPlan(*sequence, budget, &plan)) {
      budget -= static_cast<int32_t>(plan.sequences.back().tokens.size());
      decoding += decode ? 1 : 0;
    } else if (budget > 0) {
      parked = true;
    }
  }
  for (SequenceState* sequence : Ordered(Phase::kWaiting)) {
    if (parked || !MayStart(*sequence)) break;
    Start(*sequence);
    if (!AddToPlan(*sequence, budget, &plan)) {
      sequence->phase = Phase::kWaiting;  // no room yet; nothing was sent
      sequence->keep = -1;
      break;
    }
    budget -= static_cast<int32_t>(plan.sequences.back().tokens.size());
  }

  if (plan.sequences.empty() && in_flight_.empty() && !sequences_.empty()) {
    MakeRoom();
    return Plan();
  }
  plan.releases = std::exchange(releases_, {});
  if (plan.sequences.empty() && plan.releases.empty()) return std::nullopt;
  absl::Time deadline = absl::InfiniteFuture();
  for (const PlanSequence& planned : plan.sequences) {
    deadline = std::min(deadline, sequences_.at(planned.request)->request.deadline);
  }
  plan.remaining = deadline - clock_.Now();
  ++next_plan_;
  return plan;
}

// Nobody fits and nothing in flight will change that. The latest that runs gives way to those before it; one that does
// not fit with all room free never will: ranks that formed anew hold less than it was admitted for.
void Scheduler::MakeRoom() {
  const std::vector<SequenceState*> running = Ordered(Phase::kRunning);
  if (running.size() > 1) {
    metrics_.Add("vllm:num_preemptions_total");
    ++running.back()->explanation.preemptions;
    return BackToWaiting(*running.back(), "preempted: the device arena holds too few blocks for all that run");
  }
  SequenceState& first = running.empty() ? *Ordered(Phase::kWaiting)[0] : *running[0];
  absl::Status why = CheckCanRun(*shape_, static_cast<int32_t>(first.tokens.size()), options_.fixed_keep);
  if (why.ok()) why = absl::FailedPreconditionError("the request's next step does not fit the replica");
  Finish(first, std::move(why), FinishReason::kStop);
}

std::vector<SequenceState*> Scheduler::Ordered(Phase phase) const {
  std::vector<SequenceState*> members;
  std::vector<SequenceView> views;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->phase != phase) continue;
    members.push_back(sequence.get());
    views.push_back({id, sequence->request.arrival, sequence->request.deadline, sequence->remaining()});
  }
  std::vector<SequenceState*> ordered;
  for (size_t index : policy_->Order(views)) ordered.push_back(members[index]);
  return ordered;
}

bool Scheduler::MayStart(const SequenceState&) const {
  const auto running = std::count_if(sequences_.begin(), sequences_.end(),
                                     [](const auto& entry) { return entry.second->phase != Phase::kWaiting; });
  return running < options_.max_running;
}

void Scheduler::Start(SequenceState& sequence) {
  sequence.phase = Phase::kRunning;
  sequence.generation = Generation{entropy_->Next()};
  sequence.explanation.tiers = shape_->tiers;
  sequence.explanation.layers.resize(shape_->layers);
}

bool Scheduler::AddToPlan(SequenceState& sequence, int32_t budget, StepPlan* plan) {
  const int32_t count = std::min({sequence.remaining(), options_.chunk_tokens, budget});
  if (count <= 0) return false;
  const size_t held = sequence.blocks.size();
  if (!TakeBlocks(sequence, sequence.computed + count) || !ChooseResidency(sequence, plan)) {
    sequence.blocks.erase(sequence.blocks.begin() + static_cast<ptrdiff_t>(held), sequence.blocks.end());
    return false;
  }
  PlanSequence planned{.request = sequence.request.id, .attempt = ledger_.attempt(sequence.request.id)};
  planned.generation = sequence.generation;
  planned.start = sequence.computed;
  planned.tokens.assign(sequence.tokens.begin() + sequence.computed,
                        sequence.tokens.begin() + sequence.computed + count);
  planned.sample = sequence.computed + count == static_cast<int32_t>(sequence.tokens.size());
  planned.sample_index = sequence.generated();
  if (planned.sample) planned.sampling = sequence.request.sampling;
  planned.residency = {shape_->layers, sequence.keep};
  planned.salt = sequence.request.salt;
  plan->sequences.push_back(std::move(planned));
  sequence.in_flight = true;
  if (sequence.started == absl::InfinitePast()) {
    sequence.started = clock_.Now();
    metrics_.Observe("vllm:request_queue_time_seconds",
                     absl::ToDoubleSeconds(sequence.started - sequence.request.arrival));
  }
  return true;
}

bool Scheduler::TakeBlocks(SequenceState& sequence, int32_t tokens) {
  while (static_cast<int32_t>(sequence.blocks.size()) < shape_->BlocksFor(tokens)) {
    if (std::optional<BlockRef> block = pool_.TryTake()) {
      sequence.blocks.push_back(*std::move(block));
    } else if (!PreemptFor(sequence)) {
      return false;
    }
  }
  return true;
}

bool Scheduler::PreemptFor(const SequenceState& sequence) {
  std::vector<SequenceState*> running = Ordered(Phase::kRunning);
  for (auto victim = running.rbegin(); victim != running.rend() && *victim != &sequence; ++victim) {
    if ((*victim)->in_flight || (*victim)->blocks.empty()) continue;
    metrics_.Add("vllm:num_preemptions_total");
    ++(*victim)->explanation.preemptions;
    BackToWaiting(**victim, absl::StrCat("preempted: no KV block was left for request ", sequence.request.name));
    return true;
  }
  return false;
}

bool Scheduler::ChooseResidency(SequenceState& sequence, StepPlan* plan) {
  std::vector<SequenceState*> others;
  std::vector<SequenceDemand> demands;
  for (const auto& [id, other] : sequences_) {
    if (other.get() == &sequence || other->keep < 0) continue;
    others.push_back(other.get());
    demands.push_back({static_cast<int32_t>(other->blocks.size()), other->keep, other->in_flight});
  }
  demands.push_back({static_cast<int32_t>(sequence.blocks.size()), sequence.keep, /*computes=*/true});
  const ResidencyChoice choice = PlanResidency(demands, shape_->layers, shape_->stages, options_.fixed_keep);
  if (!choice.fits) return false;
  for (size_t i = 0; i < others.size(); ++i) {
    SequenceState& other = *others[i];
    if (choice.keep[i] == other.keep) continue;
    other.Note(absl::StrCat("kept layers lowered from ", other.keep, " to ", choice.keep[i], " of ", shape_->layers,
                            ": the device arena is short"));
    other.keep = choice.keep[i];
    const LayerResidencyPlan residency{shape_->layers, other.keep};
    const auto same = [&](const auto& entry) { return entry.request == other.request.id; };
    auto planned = std::find_if(plan->sequences.begin(), plan->sequences.end(), same);
    auto change = std::find_if(plan->residency.begin(), plan->residency.end(), same);
    if (planned != plan->sequences.end()) {
      planned->residency = residency;
    } else if (change != plan->residency.end()) {
      change->residency = residency;
    } else {
      plan->residency.push_back({other.request.id, residency});
    }
  }
  if (sequence.keep >= 0 && choice.keep.back() < sequence.keep) {
    sequence.Note(absl::StrCat("kept layers lowered from ", sequence.keep, " to ", choice.keep.back(), " of ",
                               shape_->layers, ": the device arena is short"));
  } else if (sequence.keep < 0 && choice.keep.back() < shape_->layers) {
    sequence.Note(absl::StrCat("admitted with ", choice.keep.back(), " of ", shape_->layers, " layers kept"));
  }
  sequence.keep = choice.keep.back();
  return true;
}

}  // namespace interlace
