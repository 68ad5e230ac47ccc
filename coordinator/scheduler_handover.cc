// Scheduler: requests that go on elsewhere, and those that come from there.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "coordinator/resumed.h"
#include "coordinator/scheduler.h"

namespace interlace {
namespace {

constexpr absl::Duration kAskAgain = absl::Milliseconds(5);
constexpr absl::Duration kWriteBehind = absl::Milliseconds(20);  // from a sealed block to the tier, but for its bytes

}  // namespace

// The client has the tokens of the answer: they are a part of what is computed, and what was counted for the request
// is not counted again.
void Scheduler::Resume(SequenceState& sequence) {
  const Resumed& from = *sequence.request.resumed;
  sequence.tokens.insert(sequence.tokens.end(), from.tokens.begin(), from.tokens.end());
  sequence.known += static_cast<int32_t>(from.tokens.size());
  sequence.had = from.had;
  sequence.started = from.started;
  sequence.first_token = from.first_token;
  sequence.last_token = from.last_token;
  sequence.largest_so_far = from.largest_gap;
  sequence.scored_rows = from.scored_rows;
  sequence.cached_tokens = from.cached_tokens;
  sequence.attempt = from.attempt;
  sequence.losses = from.losses;
  if (sequence.bounded != nullptr) sequence.bounded->Resume(from.fidelity);
  sequence.skips = sequence.bounded != nullptr && !from.fidelity.switched_off;
  sequence.steps = from.explanation.steps;
  sequence.computed_before = from.computed;
  sequence.recompute_cause = from.cause;
  suspects_ |= from.losses >= 2;
  sequence.explanation = from.explanation;
  sequence.trace = from.trace;
  // Since it was handed over it waits.
  sequence.spending = from.started == absl::InfinitePast() ? Spending::kQueued : Spending::kParked;
  sequence.spending_since = from.at;
  sequence.trace.Enter(PhaseOf(sequence.spending), from.at);
}

bool Scheduler::IsComplete(const SequenceState& sequence) const {
  return sequence.generated() > 0 &&
         (sequence.generated() >= sequence.request.max_tokens || sequence.known >= options_.context);
}

// In the order of service, so that those who are due first find room elsewhere first. A request that brought down as
// many replicas as one may goes nowhere.
void Scheduler::HandAllOver(const absl::Status& why) {
  while (!waiting_.empty()) {
    SequenceState& sequence = **waiting_.begin();
    if (std::exchange(sequence.met_loss, false) && ++sequence.losses >= options_.max_losses) {
      Quarantine(sequence, why);
    } else {
      HandOver(sequence, why, "replica lost");
    }
  }
}

// Steps of it that are in flight count for nothing: whoever goes on samples the same tokens.
void Scheduler::HandOver(RequestId id, const absl::Status& why) {
  SequenceState* const sequence = Find(id);
  if (sequence == nullptr) return;
  sequence->computed_before = std::max(sequence->computed_before, sequence->confirmed);
  HandOver(*sequence, why, "handed over");
}

void Scheduler::HandOver(SequenceState& sequence, const absl::Status& why, absl::string_view cause) {
  const absl::Time now = clock_.Now();
  ReleaseAll(sequence, now);
  EndAdvice(sequence);
  EndModelDrafts(sequence);
  Note(sequence, DecisionKind::kHandedOver, {sequence.generated()}, why.message());
  sequence.Spend(sequence.spending, now);
  sequence.explanation.layers.clear();  // of another replica
  auto resumed = std::make_shared<Resumed>();
  resumed->tokens.assign(sequence.tokens.begin() + sequence.prompt, sequence.tokens.end());
  resumed->had = sequence.had;
  resumed->started = sequence.started;
  resumed->first_token = sequence.first_token;
  resumed->last_token = sequence.last_token;
  resumed->largest_gap = sequence.largest_so_far;
  resumed->scored_rows = sequence.scored_rows;
  resumed->cached_tokens = sequence.cached_tokens;
  resumed->at = now;
  resumed->attempt = sequence.attempt;
  resumed->losses = sequence.losses;
  resumed->computed = sequence.computed_before;
  resumed->cause = cause;
  for (const BlockEntry* entry : sequence.blocks) resumed->sealed += entry->own ? 0 : 1;
  resumed->fidelity = ReportOf(sequence);
  resumed->explanation = sequence.explanation;
  resumed->explanation.steps = sequence.steps;
  resumed->trace = sequence.trace;
  deliveries_.push_back({sequence.request.sink.get(), Delivery::Kind::kHandedOver, 0, handed_over_.size()});
  tenants_.Ended(sequence.request.targets.tenant, sequence.generated() - sequence.max_tokens);
  HandedOver& handed = handed_over_.emplace_back(HandedOver{sequence.request, why});
  handed.request.resumed = std::move(resumed);
  handed.request.had.clear();  // they are among those
  Drop(sequence);
}

// The tiers have answered with less than the replica from which it comes had sealed: the rest is on its way to them. It
// is waited for as long as it should take, and no longer than computing it would.
bool Scheduler::AskAgain(SequenceState& sequence) {
  if (sequence.request.resumed == nullptr || !SharesTier()) return false;
  const Resumed& from = *sequence.request.resumed;
  const int32_t block_tokens = shape()->block_tokens;
  const int32_t have = sequence.below_blocks + sequence.probe_answers;
  const int32_t sealed = std::min(from.sealed, sequence.FirstWanted() / block_tokens);
  if (have >= sealed) return false;
  const int64_t bytes = int64_t{sealed - have} * shape()->layers * shape()->slot_bytes;
  const absl::Duration computed = cost_.Prefill(have * block_tokens, sealed * block_tokens, options_.chunk_tokens);
  const absl::Duration sent = kWriteBehind + 2 * cost_.Transfer(Route::kBelow, bytes);
  const absl::Time now = clock_.Now();
  if (now >= from.at + std::min(computed, sent)) return false;
  sequence.ask_again = now + kAskAgain;
  ask_again_ = std::min(ask_again_, sequence.ask_again);
  return true;
}

// The kvstore is the one tier that is not a rank's own.
bool Scheduler::SharesTier() const {
  return std::find(shape()->tiers.begin(), shape()->tiers.end(), "remote") != shape()->tiers.end();
}

}  // namespace interlace
