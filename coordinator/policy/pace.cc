#include "coordinator/policy/pace.h"

#include <algorithm>
#include <limits>

namespace interlace {
namespace {

constexpr double kUnsure = 0.1;  // share of answers that may end before the tokens that are counted on

StepWork Decoding(const StepView& view) {
  StepWork work;
  for (const SequenceView* sequence : view.running) {
    if (sequence->phase == Phase::kRunning && sequence->decodes()) work.Add(sequence->known, 1);
  }
  return work;
}

}  // namespace

absl::Time Due(const SequenceView& sequence) {
  if (!sequence.begun()) {
    return std::min(sequence.deadline, sequence.arrival + std::min(sequence.ttft, kNominalTtft));
  }
  const absl::Time by_pace = sequence.first_token + sequence.tpot * std::max(1, sequence.generated());
  const absl::Time by_gap = sequence.last_token + std::min(sequence.largest_gap, kNominalGap);
  return std::min({sequence.deadline, by_pace, by_gap});
}

absl::Duration AllowedPause(const SequenceView& sequence, absl::Time now, int32_t future, absl::Duration per_token) {
  if (!sequence.begun()) return absl::InfiniteDuration();
  absl::Duration pause = absl::InfiniteDuration();
  if (sequence.tpot < absl::InfiniteDuration()) {
    const int32_t tokens = sequence.generated() - 1 + future;
    pause = sequence.tpot * tokens - (now - sequence.first_token) - per_token * future;
  }
  return std::min(pause, sequence.last_token + sequence.largest_gap - now - per_token);
}

absl::Duration AllowedStep(const StepView& view) {
  absl::Duration allowed = absl::InfiniteDuration();
  absl::Duration per_token;
  bool predicted = false;
  for (const SequenceView* sequence : view.running) {
    if (sequence->phase != Phase::kRunning || !sequence->begun() || !sequence->decodes()) continue;
    if (sequence->tpot == absl::InfiniteDuration() && sequence->largest_gap == absl::InfiniteDuration()) continue;
    if (!predicted) {
      per_token = view.cost->Expect(Decoding(view));
      predicted = true;
    }
    const int32_t left = std::max(0, sequence->max_tokens - sequence->generated());
    const int32_t future = std::max(1, view.lengths->AtLeast(sequence->generated(), kUnsure, left));
    // The pause is what the step takes beyond a token's own time.
    allowed = std::min(allowed, per_token + AllowedPause(*sequence, view.now, future, per_token));
  }
  return allowed;
}

int32_t PromptRows(const StepView& view) {
  if (!view.cost->known()) return kAll;
  const absl::Duration allowed = AllowedStep(view);
  if (allowed == absl::InfiniteDuration()) return kAll;
  const int32_t rows = view.cost->RowsWithin(Decoding(view), /*start=*/0, view.rows, allowed);
  return std::max(view.block_tokens, rows);
}

int32_t RowsThatHide(const CostModel& cost, int32_t start, int32_t most, int64_t bytes) {
  if (!cost.known() || bytes == 0) return 0;
  return cost.RowsWithin(StepWork(), start, most, cost.Transfer(Route::kIn, bytes));
}

int64_t StreamBytes(const StepView& view) {
  const double rate = view.cost->bytes_per_second(Route::kIn);
  if (rate <= 0 || !view.cost->known()) return std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(rate * absl::ToDoubleSeconds(view.cost->Expect(Decoding(view))));
}

}  // namespace interlace
