#include "kvstore/transfer_ticket.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace interlace {

TransferTicket::State::State(std::vector<BlockKey> k, std::vector<std::byte*> t, std::vector<const std::byte*> f,
                             absl::Time d, Clock& c, std::shared_ptr<std::atomic<int64_t>> late)
    : keys(std::move(k)),
      to(std::move(t)),
      from(std::move(f)),
      deadline(d),
      clock(c),
      late_reads(std::move(late)),
      results(keys.size()),
      settled(keys.size()),
      open(keys.size()) {}

bool TransferTicket::State::Open(int32_t index) const {
  absl::MutexLock lock(&mutex);
  return !settled[index];
}

bool TransferTicket::State::WhileOpen(int32_t index, absl::FunctionRef<void()> body) {
  absl::MutexLock lock(&mutex);
  if (settled[index]) return false;
  body();
  return true;
}

void TransferTicket::State::Settle(int32_t index, MoveResult result) {
  absl::MutexLock lock(&mutex);
  if (settled[index]) return;
  results[index] = std::move(result);
  settled[index] = true;
  --open;
}

void TransferTicket::State::Abandon(const absl::Status& status, bool late) {
  absl::MutexLock lock(&mutex);
  if (late && IsRead()) *late_reads += static_cast<int64_t>(open);
  for (size_t i = 0; i < settled.size(); ++i) {
    if (!settled[i]) results[i].status = status;
    settled[i] = true;
  }
  open = 0;
}

bool TransferTicket::State::Done() const {
  absl::MutexLock lock(&mutex);
  return open == 0;
}

TransferTicket::TransferTicket(TransferTicket&&) noexcept = default;

TransferTicket& TransferTicket::operator=(TransferTicket&& other) noexcept {
  TransferTicket former(std::exchange(state_, std::exchange(other.state_, nullptr)));  // abandoned if it is not done
  return *this;
}

TransferTicket::~TransferTicket() {
  if (state_ != nullptr) state_->Abandon(absl::CancelledError("the ticket was destroyed"), /*late=*/false);
}

bool TransferTicket::done() const {
  CHECK_MSG(state_ != nullptr, "done() of an empty ticket");
  return state_->Done();
}

std::vector<MoveResult> TransferTicket::Wait(absl::Time deadline) {
  CHECK_MSG(state_ != nullptr, "Wait() on an empty ticket");
  if (!state_->Done()) {
    const absl::Duration patience = deadline - state_->clock.Now();  // infinite if the deadline is
    absl::MutexLock lock(&state_->mutex);
    state_->mutex.AwaitWithTimeout(absl::Condition(state_.get(), &State::AllSettled),
                                   std::max(patience, absl::ZeroDuration()));
  }
  state_->Abandon(absl::DeadlineExceededError("the block was not there in time"), /*late=*/true);
  absl::MutexLock lock(&state_->mutex);
  return state_->results;
}

}  // namespace interlace
