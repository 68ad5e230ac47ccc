#include "coordinator/policy/pace.h"

#include <algorithm>
#include <limits>

namespace interlace {
namespace {

constexpr double kUnsure = 0.1;  // share of answers that may end before the tokens that are counted on
constexpr absl::Duration kSoon = absl::Milliseconds(100);  // a stream that is due within it is about to be late

bool Streams(const SequenceView& sequence) { return sequence.phase == Phase::kRunning && sequence.decodes(); }

}  // namespace

absl::Time Due(const SequenceView& sequence) {
  if (!sequence.begun()) {
    return std::min(sequence.deadline, sequence.arrival + std::min(sequence.ttft, kNominalTtft));
  }
  const absl::Time by_pace = sequence.first_token + sequence.tpot * std::max(1, sequence.given());
  const absl::Time by_gap = sequence.last_token + std::min(sequence.largest_gap, kNominalGap);
  return std::min({sequence.deadline, by_pace, by_gap});
}

absl::Duration AllowedPause(const SequenceView& sequence, absl::Time begins, int32_t future, absl::Duration per_token) {
  if (!sequence.begun()) return absl::InfiniteDuration();
  absl::Duration pause = absl::InfiniteDuration();
  if (sequence.tpot < absl::InfiniteDuration()) {
    const int32_t tokens = sequence.made() - 1 + future;
    pause = kPaceAim * sequence.tpot * tokens - (begins - sequence.first_token) - per_token * future;
  }
  const absl::Time last = sequence.pending > 0 ? begins : sequence.last_token;
  return std::min(pause, last + sequence.largest_gap - begins - per_token);
}

StreamPace PaceOf(const StepView& view) {
  StreamPace pace{.allowed = absl::InfiniteDuration()};
  bool any = false;  // has a target
  for (const SequenceView* sequence : view.running) {
    if (!Streams(*sequence)) continue;
    pace.work.Add(sequence->known, 1);
    any = any || sequence->paced();
  }
  if (!any) return pace;
  // Prompts get a block in each step, however late streams are.
  StepWork later = pace.work;
  later.Add(0, view.block_tokens);
  const absl::Duration per_later_token = view.slowdown * view.cost->Expect(later);
  for (const SequenceView* sequence : view.running) {
    const int32_t made = sequence->made();
    if (!Streams(*sequence) || !sequence->paced() || made >= sequence->max_tokens) continue;
    const int32_t future = std::max(1, view.lengths->AtLeast(made, kUnsure, sequence->max_tokens - made));
    // The pause is what the step takes beyond a token's own time.
    pace.allowed =
        std::min(pace.allowed, per_later_token + AllowedPause(*sequence, view.begins, future, per_later_token));
  }
  return pace;
}

int32_t PromptRows(const StepView& view, const StreamPace& pace) {
  if (!view.cost->known() || pace.allowed == absl::InfiniteDuration()) return kAll;
  // RowsWithin leaves room for the error of the cost model alone.
  const absl::Duration within = pace.allowed * (view.cost->error() / std::max(view.cost->error(), view.most_slowdown));
  return std::max(view.block_tokens, view.cost->RowsWithin(pace.work, /*start=*/0, view.rows, within));
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

int64_t StreamedBytes(const SequenceView& sequence, int32_t layers, int64_t block_bytes) {
  return int64_t{sequence.sealed} * (layers - sequence.kept_layers) * block_bytes;
}

std::pair<bool, absl::Time> ReadingOrder(const SequenceView& sequence, absl::Time now) {
  const absl::Time due = Due(sequence);
  const bool ahead = due > now + kSoon;
  return {ahead, ahead ? sequence.first_token : due};
}

int64_t BytesLeft(const StepView& view, int64_t bytes) {
  if (bytes == std::numeric_limits<int64_t>::max()) return 0;
  for (const SequenceView* s : view.running) {
    if (Streams(*s)) bytes -= StreamedBytes(*s, view.layers, view.block_bytes);
  }
  return std::max<int64_t>(0, bytes);
}

}  // namespace interlace
