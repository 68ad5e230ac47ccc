// Scheduler: what its policy sees.
#include <algorithm>
#include <limits>

#include "coordinator/scheduler.h"

namespace interlace {

StepView Scheduler::View() {
  StepView view;
  view.now = clock_.Now();
  view.slowdown = step_error_.usual();
  view.most_slowdown = step_error_.factor();
  view.begins = view.now + UnderWay(view.now);
  const std::vector<SequenceState*>& running = RunningInOrder();
  seen_.assign(running.begin(), running.end());
  view.running = seen_;
  queue_.clear();
  for (auto it = waiting_.begin(); it != waiting_.end() && queue_.size() < kMostLookedAt; ++it) queue_.push_back(*it);
  view.waiting = queue_;
  view.parked = begun_waiting_ + static_cast<int32_t>(placement_->streaming().size());
  view.begun_waiting = begun_waiting_;
  view.rows = std::min(options_.step_tokens, shape()->step_tokens);
  view.layers = shape()->layers;
  view.block_tokens = shape()->block_tokens;
  view.block_bytes = shape()->slot_bytes;
  view.free_blocks = placement_->FreeBlocks();
  view.device_blocks = std::numeric_limits<int64_t>::max();
  for (const StageShape& stage : shape()->stages) {
    view.device_blocks = std::min(view.device_blocks, stage.room.slots / stage.layers.size());
  }
  view.cost = &cost_;
  view.lengths = &lengths_;
  view.options = options_.policy;
  return view;
}

// How long the plans in flight still take. The first of them began when the one before it was over; stages work on
// several at once.
absl::Duration Scheduler::UnderWay(absl::Time now) const {
  if (in_flight_.empty() || !cost_.known()) return absl::ZeroDuration();
  absl::Duration left = std::max(in_flight_.begin()->second.sent, commit_time_) - now;
  for (const auto& [id, step] : in_flight_) {
    left += step_error_.usual() * cost_.Expect(step.work) / shape()->stages.size();
  }
  return std::max(absl::ZeroDuration(), left);
}

void Scheduler::Wait(SequenceState& sequence) {
  sequence.key = policy_.key(sequence, cost_);
  sequence.Spend(sequence.started == absl::InfinitePast() ? Spending::kQueued : Spending::kParked, clock_.Now());
  waiting_.insert(&sequence);
  begun_waiting_ += sequence.begun() ? 1 : 0;
}

void Scheduler::StopWaiting(SequenceState& sequence) {
  if (waiting_.erase(&sequence) > 0) begun_waiting_ -= sequence.begun() ? 1 : 0;
}

}  // namespace interlace
