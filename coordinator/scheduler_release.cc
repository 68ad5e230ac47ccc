// Scheduler: tokens that come sooner than their pace are a deposit, which is paid out while the next ones are late.
#include <algorithm>
#include <utility>

#include "coordinator/scheduler.h"

namespace interlace {

// When the client gets a token that is accepted now. The first one at once; the k-th after it (sched.release=pace) not
// before k times TPOT after the first, so that a pause that the tokens in hand last for is not felt.
absl::Time Scheduler::ReleaseOf(const SequenceState& sequence, absl::Time now) const {
  if (!sequence.begun() || sequence.tpot == absl::InfiniteDuration()) return now;
  return std::max(now, sequence.first_token + sequence.tpot * sequence.given());
}

void Scheduler::Hold(SequenceState& sequence, SampledToken& sampled, absl::Time due) {
  if (sequence.deposit == nullptr) sequence.deposit = std::make_unique<TokenDeposit>();
  TokenDeposit& deposit = *sequence.deposit;
  if (deposit.tokens.empty()) {
    deposit.released = sequence.last_token;
    release_times_.emplace(due, sequence.id);
  }
  deposit.tokens.push_back({sampled.token, due, std::move(sampled.scores)});
}

// The first token of the deposit goes to the client at `now`.
void Scheduler::ReleaseOne(SequenceState& sequence, absl::Time now) {
  TokenDeposit& deposit = *sequence.deposit;
  HeldToken& held = deposit.tokens.front();
  release_times_.erase({held.due, sequence.id});
  metrics_.between_tokens.Observe(absl::ToDoubleSeconds(now - deposit.released));
  sequence.largest_so_far = std::max(sequence.largest_so_far, now - deposit.released);
  deposit.released = now;
  AddDelivery(sequence, held.token, &held.scores);
  deposit.tokens.pop_front();
  if (!deposit.tokens.empty()) release_times_.emplace(deposit.tokens.front().due, sequence.id);
}

// Those whose time has come.
void Scheduler::ReleaseDue() {
  const absl::Time now = clock_.Now();
  while (!release_times_.empty() && release_times_.begin()->first <= now) {
    ReleaseOne(*Find(release_times_.begin()->second), now);
  }
}

// The answer is whole, or ends here: there is no pause left to last for.
void Scheduler::ReleaseAll(SequenceState& sequence, absl::Time now) {
  if (sequence.deposit == nullptr || sequence.deposit->tokens.empty()) return;
  while (!sequence.deposit->tokens.empty()) ReleaseOne(sequence, now);
  sequence.last_token = now;
}

}  // namespace interlace
