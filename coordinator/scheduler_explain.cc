// Scheduler: what it tells of a request, and why it decided as it did.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/scheduler.h"

namespace interlace {

void Scheduler::Note(SequenceState& sequence, DecisionKind kind, const Figures& figures, absl::string_view detail) {
  Decision decision{.kind = kind, .at = clock_.Now() - sequence.arrival, .figures = figures};
  decision.detail = std::string(detail);
  sequence.explanation.Add(std::move(decision));
}

// Which of the limits of a start it was that left no room.
void Scheduler::NoteNoRoom(SequenceState& sequence, const KvPlacement::StartRoom& limits, int32_t adopted) {
  const int64_t wanted = shape()->BlocksFor(sequence.known) - adopted, free = placement_->FreeBlocks();
  const bool whole = limits.least >= shape()->layers;
  if (whole && !sequence.begun() && draft_.hold_up == HoldUp::kStreamLate) {
    return Note(sequence, DecisionKind::kStreamLate, {wanted, free});
  }
  if (whole && !sequence.begun() && draft_.hold_up == HoldUp::kCoresBusy) {
    return Note(sequence, DecisionKind::kCoresBusy, {wanted, free});
  }
  if (whole && !sequence.begun() && draft_.hold_up == HoldUp::kParkedBound) {
    const auto short_of_layers = static_cast<int64_t>(placement_->streaming().size());
    return Note(sequence, DecisionKind::kParkedBound, {wanted, free, begun_waiting_ + short_of_layers});
  }
  const bool reserved = wanted <= free && wanted > free - limits.spare;
  Note(sequence, reserved ? DecisionKind::kReserved : DecisionKind::kNoRoom, {wanted, free, limits.spare});
}

void Scheduler::NoteFetch(SequenceState& sequence, int32_t adopted, int32_t fetched) {
  const int32_t block_tokens = shape()->block_tokens, from = adopted * block_tokens;
  const int64_t bytes = int64_t{fetched} * shape()->layers * shape()->slot_bytes;
  Note(sequence, DecisionKind::kFetches,
       {fetched, absl::ToInt64Microseconds(cost_.Transfer(Route::kBelow, bytes)),
        absl::ToInt64Microseconds(cost_.Prefill(from, from + fetched * block_tokens, options_.chunk_tokens))});
}

absl::StatusOr<Explanation> Scheduler::Explain(absl::string_view name) const {
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->request.name == name) return Describe(*sequence, clock_.Now());
  }
  for (auto it = ended_.rbegin(); it != ended_.rend(); ++it) {
    if (it->name == name) return *it;
  }
  return absl::NotFoundError(
      absl::StrCat("request '", name, "' is unknown; the last ", ended_.size(), " ended requests are kept"));
}

FidelityReport Scheduler::ReportOf(const SequenceState& sequence) {
  if (sequence.bounded != nullptr) return sequence.bounded->report;
  return {.mode = sequence.request.fidelity.mode};
}

Explanation Scheduler::Describe(const SequenceState& sequence, absl::Time now) const {
  Explanation explanation = sequence.explanation;
  explanation.state = sequence.phase == Phase::kRunning    ? "running"
                      : sequence.phase == Phase::kFetching ? "fetching"
                      : sequence.parked()                  ? "parked"
                                                           : "waiting";
  explanation.keep_layers = sequence.kept.size();
  explanation.steps = sequence.steps;
  explanation.spent[sequence.spending] += now - sequence.spending_since;
  explanation.end.prompt_tokens = sequence.prompt;
  explanation.end.completion_tokens = sequence.generated();
  explanation.end.cached_tokens = std::max(0, sequence.cached_tokens);
  explanation.end.fidelity = ReportOf(sequence);
  sequence.FillPace(&explanation.end.timing);
  const auto blocks = static_cast<int32_t>(sequence.blocks.size());
  for (size_t l = 0; l < explanation.layers.size(); ++l) {
    LayerExplanation& layer = explanation.layers[l];
    const LayerId id{static_cast<int32_t>(l)};
    layer.kept = sequence.kept.Has(id);
    layer.computed = std::max(0, blocks - sequence.adopted);
    layer.blocks_device = layer.blocks_host = 0;
    for (const BlockEntry* entry : sequence.blocks) {
      layer.blocks_device += entry->device.Has(id) ? 1 : 0;
      layer.blocks_host += entry->host.Has(id) ? 1 : 0;
    }
  }
  return explanation;
}

}  // namespace interlace
