#include "coordinator/policy/pace.h"

#include <algorithm>
#include <limits>

namespace interlace {
namespace {

constexpr double kUnsure = 0.1;  // share of answers that may end before the tokens that are counted on

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

StreamPace PaceOf(const StepView& view) {
  StreamPace pace{.allowed = absl::InfiniteDuration()};
  bool any = false;  // has a target
  for (const SequenceView* sequence : view.running) {
    if (sequence->phase != Phase::kRunning || !sequence->decodes()) continue;
    pace.work.Add(sequence->known, 1);
    any = any || sequence->paced();
  }
  if (!any) return pace;
  const absl::Duration per_token = view.cost->Expect(pace.work);
  for (const SequenceView* sequence : view.running) {
    if (sequence->phase != Phase::kRunning || !sequence->decodes() || !sequence->paced()) continue;
    const int32_t left = std::max(0, sequence->max_tokens - sequence->generated());
    const int32_t future = std::max(1, view.lengths->AtLeast(sequence->generated(), kUnsure, left));
    // The pause is what the step takes beyond a token's own time.
    pace.allowed = std::min(pace.allowed, per_token + AllowedPause(*sequence, view.now, future, per_token));
  }
  return pace;
}

int32_t PromptRows(const StepView& view, const StreamPace& pace) {
  if (!view.cost->known() || pace.allowed == absl::InfiniteDuration()) return kAll;
  return std::max(view.block_tokens, view.cost->RowsWithin(pace.work, /*start=*/0, view.rows, pace.allowed));
}

int32_t RowsThatHide(const CostModel& cost, int32_t start, int32_t most, int64_t bytes) {
  if (!cost.known() || bytes == 0) return 0;
  return cost.RowsWithin(StepWork(), start, most, cost.Transfer(Route::kIn, bytes));
}

int64_t StreamBytes(const StepView& view, const StreamPace& pace) {
  const double rate = view.cost->bytes_per_second(Route::kIn);
  if (rate <= 0 || !view.cost->known()) return std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(rate * absl::ToDoubleSeconds(view.cost->Expect(pace.work)));
}

}  // namespace interlace
