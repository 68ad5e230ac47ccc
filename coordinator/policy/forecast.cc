#include "coordinator/policy/forecast.h"

#include <limits>

namespace interlace {
namespace {

constexpr double kUnsure = 0.1;    // share of answers that may end before the tokens that are counted on
constexpr double kMostFactor = 2;  // a forecast that is further off says nothing of the next one

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

RoomAhead::RoomAhead(const StepView& view) : free_(view.free_blocks) {
  StepWork streams;
  for (const SequenceView* s : view.running) {
    if (s->decodes()) streams.Add(s->known, 1);
  }
  const absl::Duration token = view.cost->Expect(streams.rows > 0 ? streams : StepWork().Add(0, 1));
  span_ = kTokens * token;
  for (const SequenceView* s : view.running) {
    double tokens = view.lengths->AtLeast(s->generated(), kUnsure, std::max(0, s->max_tokens - s->generated()));
    if (!s->decodes()) tokens += absl::FDivDuration(view.cost->Prefill(s->scheduled, s->known, view.rows), token);
    const auto span = static_cast<int32_t>(std::min<double>(kSpans - 1, tokens / kTokens));
    const int64_t blocks = (s->known + view.block_tokens - 1) / view.block_tokens;
    freed_[static_cast<size_t>(span)] += view.layers > 0 ? blocks * s->kept_layers / view.layers : blocks;
  }
}

absl::Duration RoomAhead::Until(int64_t blocks) const {
  int64_t room = free_;
  for (int32_t span = 0; span < kSpans; ++span) {
    if (room >= blocks) return std::max(0, span - 1) * span_;  // what was freed in a span came at its beginning
    room += freed_[static_cast<size_t>(span)];
  }
  return room >= blocks ? (kSpans - 1) * span_ : absl::InfiniteDuration();
}

RoomQueue::RoomQueue(const StepView& view, const StepDraft& draft)
    : ahead_(view),
      block_tokens_(view.block_tokens),
      early_(draft.least_layers < view.layers && draft.hold_up != HoldUp::kCoresBusy),
      resumes_whole_(draft.resume_layers >= view.layers),
      starts_(draft.hold_up == HoldUp::kStreamLate ? kAll : draft.starts) {  // that one is late passes
  for (const SequenceView* s : view.running) {
    if (s->kept_layers >= view.layers) continue;
    parked_.push_back(BlocksOf(*s) * (view.layers - s->kept_layers) / view.layers);
    all_ += parked_.back();
  }
}

absl::Duration RoomQueue::Wait(const SequenceView& next) const {
  if (next.begun() || (early_ && starts_ > 0)) return absl::ZeroDuration();
  const absl::Duration whole = ahead_.Until(all_ + BlocksOf(next));
  if (!early_ || resumed_ >= parked_.size()) return whole;
  return std::min(whole, ahead_.Until(before_ + parked_[resumed_]));
}

void RoomQueue::Take(const SequenceView& next) {
  const int64_t blocks = BlocksOf(next);
  const bool whole = StartsWhole(next);
  all_ += blocks;
  if (!early_ || (next.begun() && !resumes_whole_)) return;
  if (!next.begun() && starts_ <= 0 && resumed_ < parked_.size()) before_ += parked_[resumed_++];
  if (!next.begun() && starts_ > 0 && starts_ != kAll && !whole) --starts_;
  if (!whole || next.begun()) parked_.push_back(blocks);
}

void ForecastError::Observe(absl::Duration needs, absl::Duration took) {
  if (needs <= absl::ZeroDuration()) return;
  ratios_[static_cast<size_t>(seen_++ % kKept)] = static_cast<float>(absl::FDivDuration(took, needs));
  if (seen_ < kFewest) return;
  std::array<float, kKept> sorted = ratios_;
  const auto end = sorted.begin() + static_cast<ptrdiff_t>(std::min(seen_, kKept));
  const auto quantile = [&](double share) {
    const auto at = sorted.begin() + static_cast<ptrdiff_t>(share * static_cast<double>(end - sorted.begin() - 1));
    std::nth_element(sorted.begin(), at, end);
    return std::clamp<double>(*at, 1, kMostFactor);
  };
  factor_ = quantile(1 - kUnsure);
  usual_ = quantile(0.5);
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

Forecast Predict(const StepView& view, const Ahead& ahead, const SequenceView& sequence, int32_t found, double margin) {
  Forecast forecast;
  if (!view.cost->known() || sequence.begun()) return forecast;
  const absl::Duration alone =
      view.cost->Prefill(std::min(found, sequence.known - 1), sequence.known, ahead.steps.chunk_tokens);
  const absl::Duration first =
      margin * std::max(TimeOfPrompts(*view.cost, ahead.steps, ahead.prompts), ahead.wait + alone);
  const int32_t tokens = std::max(1, view.lengths->AtLeast(0, kUnsure, sequence.max_tokens));
  const absl::Duration rest = (tokens - 1) * view.cost->Expect(StepWork().Add(sequence.known, 1));
  const auto judge = [&](Miss miss, absl::Duration needs, absl::Duration at_best, absl::Time by) {
    const absl::Duration left = by - view.now;
    if (needs <= left || forecast.miss != Miss::kNone) return;
    const absl::Duration target = by - sequence.arrival;
    forecast = {miss, needs, left, target, at_best > target};
  };
  forecast.needs = first / margin;
  judge(Miss::kDeadline, first + rest, alone + rest, sequence.deadline);
  judge(Miss::kTtft, first, alone, sequence.arrival + sequence.ttft);
  return forecast;
}

}  // namespace interlace
