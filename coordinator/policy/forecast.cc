#include "coordinator/policy/forecast.h"

namespace interlace {
namespace {

constexpr double kUnsure = 0.1;  // share of answers that may end before the tokens that are counted on

int64_t Over(int64_t amount, int64_t each) { return (amount + each - 1) / std::max<int64_t>(1, each); }

}  // namespace

absl::Duration TimeOfPrompts(const CostModel& cost, const StepRoom& room, const PromptsAhead& prompts) {
  const int64_t steps = std::max(Over(prompts.work.rows, room.prompt_rows), Over(prompts.longest, room.chunk_tokens));
  if (steps <= 0) return room.under_way;
  StepWork each = room.beside;
  each.rows += prompts.work.rows / steps;
  each.context += prompts.work.context / steps;
  each.products += prompts.work.products / steps;
  return room.under_way + static_cast<double>(steps) * cost.Expect(each);
}

absl::string_view MissName(Miss miss) {
  switch (miss) {
    case Miss::kNone:
      return "none";
    case Miss::kTtft:
      return "predicted_ttft_miss";
    case Miss::kDeadline:
      return "predicted_deadline_miss";
  }
  return "";
}

Forecast Predict(const StepView& view, const StepRoom& room, const PromptsAhead& prompts, const SequenceView& sequence,
                 int32_t found) {
  Forecast forecast;
  if (!view.cost->known() || sequence.begun()) return forecast;
  const absl::Duration first = TimeOfPrompts(*view.cost, room, prompts);
  const absl::Duration alone =
      view.cost->Prefill(std::min(found, sequence.known - 1), sequence.known, room.chunk_tokens);
  const int32_t tokens = std::max(1, view.lengths->AtLeast(0, kUnsure, sequence.max_tokens));
  const absl::Duration rest = (tokens - 1) * view.cost->Expect(StepWork().Add(sequence.known, 1));
  const auto judge = [&](Miss miss, absl::Duration needs, absl::Duration at_best, absl::Time by) {
    const absl::Duration left = by - view.now;
    if (needs <= left || forecast.miss != Miss::kNone) return;
    const absl::Duration target = by - sequence.arrival;
    forecast = {miss, needs, left, target, at_best > target};
  };
  judge(Miss::kDeadline, first + rest, alone + rest, sequence.deadline);
  judge(Miss::kTtft, first, alone, sequence.arrival + sequence.ttft);
  return forecast;
}

}  // namespace interlace
