#include "coordinator/election/election_state.h"

#include <algorithm>
#include <utility>

namespace interlace {
namespace {

constexpr int kRenewals = 4;  // in a lease
constexpr int kLooks = 10;    // of those who wait, in a lease
constexpr int kAnswers = 3;   // that may come too late one after another, in a lease

}  // namespace

std::optional<LeadRecord> ElectionState::other() const {
  if (!seen_ || mine() || seen_->record.holder.empty()) return std::nullopt;
  return seen_->record;
}

// A record that was given back is nobody's. One that is missing may have been deleted under somebody who leads.
absl::Time ElectionState::MayTakeAt() const {
  if (!seen_) return seen_at_ + options_.self.lease;
  if (seen_->record.holder.empty()) return seen_at_;
  return seen_at_ + std::max(options_.self.lease, seen_->record.lease);
}

LeadRecord ElectionState::Taken(absl::Time now) const {
  LeadRecord record = options_.self;
  record.epoch = highest_ + 1;
  record.drained = seen_ ? seen_->record.drained : drained_;
  if (!seen_) record.epoch = std::max(record.epoch, options_.first_epoch + absl::ToInt64Seconds(now - began_));
  record.renewals = 0;
  return record;
}

LeadRecord ElectionState::Renewed() const {
  LeadRecord record = options_.self;
  record.epoch = seen_->record.epoch;
  record.renewals = seen_->record.renewals + 1;
  record.drained = drained_;
  if (resigning_) record.holder.clear();
  return record;
}

// Behind its last write and a lease somebody else may have the record; and ranks that it lets go then lose no time, as
// nobody had the lead before.
absl::Time ElectionState::keep_until() const {
  if (!mine() || resigning_ || lead_until_ == absl::InfinitePast()) return absl::InfinitePast();
  return asked_in_vain_ ? lead_until_ + margin() : absl::InfiniteFuture();
}

ElectionState::Turn ElectionState::Next(absl::Time now) {
  const absl::Duration within = options_.self.lease / kAnswers;
  const Turn read{.kind = Turn::Kind::kRead, .within = within};
  if (unsure_) return now >= look_at_ ? read : Turn{.until = look_at_};
  Turn write{.kind = Turn::Kind::kWrite, .within = within};
  if (seen_) write.write.version = seen_->version;
  if (mine()) {
    if (!resigning_ && now < renew_at_) return {.until = renew_at_};
    write.write.record = Renewed();
    return write;
  }
  if (resigning_) return {};
  if (now >= MayTakeAt()) {
    write.write.record = Taken(now);
    return write;
  }
  return now >= look_at_ ? read : Turn{.until = std::min(look_at_, MayTakeAt())};
}

void ElectionState::OnRead(absl::Time now, const std::optional<StoredRecord>& stored) {
  unsure_ = false;
  look_at_ = now + options_.self.lease / kLooks;
  if (!ever_read_ || stored != seen_) seen_at_ = now;
  ever_read_ = true;
  seen_ = stored;
  if (stored) highest_ = std::max(highest_, stored->record.epoch);
  renew_at_ = now;  // what is its own was written by a write that was not answered, or is late
  if (!mine()) lead_until_ = absl::InfinitePast();
}

void ElectionState::OnWritten(absl::Time began, const LeadRecord& record, std::string version) {
  seen_ = StoredRecord{record, std::move(version)};
  highest_ = std::max(highest_, record.epoch);
  seen_at_ = began;
  renew_at_ = began + options_.self.lease / kRenewals;
  lead_until_ = mine() && !resigning_ ? began + options_.self.lease - margin() : absl::InfinitePast();
  asked_in_vain_ = false;
  drained_ = record.drained;
}

// It was itself, by a write that was not answered; or somebody who saw the record unchanged for a lease, longer than
// its own lead lasts; or the record was deleted, and whoever sees that waits for a lease.
void ElectionState::OnRefused() {
  unsure_ = true;
  look_at_ = absl::InfinitePast();
}

void ElectionState::OnFailed(absl::Time began, absl::Time now) {
  asked_in_vain_ |= began >= lead_until_;
  unsure_ = true;
  look_at_ = now + options_.self.lease / kLooks;
}

void ElectionState::Resign() {
  resigning_ = true;
  lead_until_ = absl::InfinitePast();
}

}  // namespace interlace
