// Scheduler: requests that cannot have their first token, or their end, in time are told so at once.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "coordinator/policy/forecast.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

constexpr absl::Duration kLeastRetry = absl::Milliseconds(100);

}  // namespace

// Requests that have had a token, or run, are never shed; nor is anybody before the cost model knows what steps take.
void Scheduler::ShedLate(const StepView& view) {
  if (!cost_.known() || waiting_.empty() || !MayMiss(view)) return;
  for (const auto& [sequence, forecast] : WillMiss(view)) ShedOne(*sequence, forecast);
}

StepRoom Scheduler::RoomOfSteps(const StepView& view) const {
  StepRoom room{.chunk_tokens = options_.chunk_tokens};
  for (const SequenceView* sequence : view.running) {
    if (sequence->decodes()) room.beside.Add(sequence->known, 1);
  }
  room.under_way = view.begins - view.now;
  // Where a stream is late just now, prompts get a few rows only; that passes.
  const auto rows = std::max(draft_.prompt_rows, options_.chunk_tokens);
  room.prompt_rows = std::max(1, std::min(rows, view.rows - static_cast<int32_t>(room.beside.rows)));
  return room;
}

// Of requests that have started.
PromptsAhead Scheduler::PromptsUnderWay() const {
  PromptsAhead ahead;
  for (const SequenceState* sequence : running_) {
    if (!sequence->decodes()) ahead.Add(sequence->scheduled, sequence->known);
  }
  for (const SequenceState* sequence : fetching_) ahead.Add(sequence->scheduled, sequence->known);
  return ahead;
}

// Whether somebody may miss a target: somebody new has come, or by what was last known of the blocks that are there,
// each request for itself. Most often nobody does, and that is cheap to see.
bool Scheduler::MayMiss(const StepView& view) const {
  Ahead ahead{RoomOfSteps(view), PromptsUnderWay(), {}};
  RoomQueue queue(view, draft_);
  for (const SequenceState* sequence : waiting_) {
    const int32_t blocks = std::max(sequence->found, sequence->sealed);
    const int32_t found = std::min(blocks * shape()->block_tokens, sequence->known - 1);
    ahead.prompts.Add(found, sequence->known);
    ahead.wait = queue.Wait(*sequence);
    queue.Take(*sequence);
    if (!sequence->begun() && sequence->forecast_at == absl::InfinitePast()) return true;
    if (Predict(view, ahead, *sequence, found).miss != Miss::kNone) return true;
  }
  return false;
}

// The KV of the block lies here, or somebody computes or fetches it.
bool Scheduler::IsThere(const SequenceState& sequence, int32_t block) const {
  const BlockEntry* entry = placement_->directory().Find(sequence.ids[block]);
  if (entry != nullptr && entry->placed().Contains(shape()->unbounded)) return true;
  return computing_.contains(sequence.ids[block]);
}

// In the policy's order; who will miss leaves the queue, so those behind come sooner. A prefix that several prompts
// share is computed once: by the first of them. Those who wait for the rest of an answer are in the way as far as they
// must be computed again. Whoever is looked at for the first time must be in time even if the forecast is as far off
// as those before it were; later on, it is told when nothing would help it.
std::vector<std::pair<SequenceState*, Forecast>> Scheduler::WillMiss(const StepView& view) {
  std::vector<std::pair<SequenceState*, Forecast>> late;
  Ahead ahead{RoomOfSteps(view), PromptsUnderWay(), {}};
  RoomQueue queue(view, draft_);
  absl::flat_hash_set<BlockId> ahead_of_it;
  for (SequenceState* sequence : waiting_) {
    const auto blocks = static_cast<int32_t>(sequence->ids.size());
    int32_t found = 0;
    while (found < blocks && (ahead_of_it.contains(sequence->ids[found]) || IsThere(*sequence, found))) ++found;
    if (sequence->below == Below::kKnown) found = std::max(found, sequence->below_blocks);
    sequence->found = found;
    const int32_t from = std::min(found * shape()->block_tokens, sequence->known - 1);
    Ahead with = ahead;
    with.prompts.Add(from, sequence->known);
    with.wait = queue.Wait(*sequence);
    const bool first = !sequence->begun() && sequence->forecast_at == absl::InfinitePast();
    const Forecast forecast = Predict(view, with, *sequence, from, first ? forecast_error_.factor() : 1);
    if (forecast.miss != Miss::kNone) {
      late.emplace_back(sequence, forecast);
      continue;
    }
    if (first) {
      sequence->forecast_at = view.now;
      sequence->forecast_needs = forecast.needs;
    }
    ahead = with;
    queue.Take(*sequence);
    ahead_of_it.insert(sequence->ids.begin(), sequence->ids.end());
  }
  return late;
}

// What was forecast of a first token is compared with what it took. Short waits, which say little, do not count.
void Scheduler::LearnForecast(const SequenceState& sequence, absl::Time now) {
  if (sequence.forecast_at == absl::InfinitePast() || 4 * sequence.forecast_needs < sequence.ttft) return;
  forecast_error_.Observe(sequence.forecast_needs, now - sequence.forecast_at);
}

void Scheduler::ShedOne(SequenceState& sequence, const Forecast& forecast) {
  const absl::string_view reason = MissName(forecast.miss);
  metrics_.registry.Add("interlace_shed_total", 1, {{"reason", reason}});
  Note(sequence, DecisionKind::kShed,
       {absl::ToInt64Milliseconds(forecast.needs), absl::ToInt64Milliseconds(forecast.left)}, reason);
  sequence.explanation.end.shed =
      Shed{std::string(reason), std::max(kLeastRetry, forecast.needs - forecast.target), forecast.hopeless};
  const absl::string_view what = forecast.miss == Miss::kTtft ? "first token" : "end";
  Finish(sequence,
         absl::ResourceExhaustedError(
             absl::StrCat("shed (sched.shed): its ", what, " would take ", absl::ToInt64Milliseconds(forecast.needs),
                          " ms from now on if all went well, and is due in ", absl::ToInt64Milliseconds(forecast.left),
                          " ms", forecast.hopeless ? "; it would miss that with the replica to itself too" : "")),
         FinishReason::kStop);
}

}  // namespace interlace
