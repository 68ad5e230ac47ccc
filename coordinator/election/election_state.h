// ElectionState: whether this coordinator leads, and what it does next about it; pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/election/lead_record.h"

namespace interlace {

// One record in a store that compares and swaps says who leads. The leader writes it anew all the time; who sees it
// unchanged for a whole lease, by its own clock, writes itself into it, with the next epoch. A leader counts its lead
// from the begin of its last write that was answered, and less than the lease by `margin`: so it has stopped before
// anybody can have seen the record unchanged for that long, however late answers come, as long as clocks run equally
// fast within margin/lease. No clock is ever compared with another one, and none tells the time of day.
//
// A lead that ran out because its holder was late is not lost: the record says whether somebody had it since. Each
// lead begins with a write of its own holder and a higher epoch, so one that is written anew over the version that its
// holder wrote last, in the same epoch, was nobody else's in between. Until that is known its holder says nothing, and
// keep_until tells how long it keeps what it would go on with.
// Owned by Election; one thread. Time is passed in. A turn is asked for with Next, done, and answered with one of the
// On*; turns of kind kWait have no answer.
class ElectionState {
 public:
  struct Options {
    LeadRecord self;  // holder, lease and doors of this coordinator; no epoch
    // Of a record where there is none, at the begin; a second later one more. The date in seconds: above all epochs of
    // a record that was deleted, unless the leader changed more than once a second.
    uint64_t first_epoch = 1;
  };
  struct Turn {
    enum class Kind { kWait, kRead, kWrite };
    Kind kind = Kind::kWait;
    absl::Time until = absl::InfiniteFuture();  // of kWait
    absl::Duration within;                      // of the others: how long the store may take
    StoredRecord write;                         // of kWrite: the record, and the version that it replaces
  };
  ElectionState(const Options& options, absl::Time now) : options_(options), began_(now) {}

  Turn Next(absl::Time now);
  void OnRead(absl::Time now, const std::optional<StoredRecord>& stored);
  // The write began at `began` and is in the store with this version.
  void OnWritten(absl::Time began, const LeadRecord& record, std::string version);
  // Somebody else has written since the version that the write was to replace.
  void OnRefused();
  // The store did not answer a call that began at `began`; what was to be written is there, or not, or will be.
  void OnFailed(absl::Time began, absl::Time now);
  // It does not lead any more and wants to no more; the record is given back if it is its own.
  void Resign();

  // It leads before this time, and no longer; infinite past: it does not.
  absl::Time lead_until() const { return lead_until_; }
  // Before this time ranks and requests of its lead are kept, although nothing may be said to them behind lead_until.
  // Infinite past: the record is not its own, or it resigns. Infinite future: what became of the record was not asked
  // yet since the lead is over, as when the process stood still.
  absl::Time keep_until() const;
  // Of its lead; of the record if it does not lead; 0: none is known.
  uint64_t epoch() const { return seen_ ? seen_->record.epoch : 0; }
  // Whose the record is, as far as it is known and not itself.
  std::optional<LeadRecord> other() const;
  // What its next write says is drained; before it leads, what the record said.
  void SetDrained(std::vector<int32_t> replicas) { drained_ = std::move(replicas); }
  const std::vector<int32_t>& drained() const { return drained_; }
  // The record is not its own any more, for good.
  bool resigned() const { return resigning_ && !unsure_ && !mine(); }

 private:
  absl::Duration margin() const { return options_.self.lease / 5; }
  bool mine() const { return seen_ && seen_->record.holder == options_.self.holder; }
  absl::Time MayTakeAt() const;
  LeadRecord Taken(absl::Time now) const;
  LeadRecord Renewed() const;

  const Options options_;
  const absl::Time began_;
  uint64_t highest_ = 0;                        // epoch that was seen
  std::optional<StoredRecord> seen_;            // the record, as last seen or written
  absl::Time seen_at_ = absl::InfinitePast();   // since when it is known to be like that
  bool ever_read_ = false;                      // until then not even that there is none is known
  absl::Time look_at_ = absl::InfinitePast();   // next
  absl::Time renew_at_ = absl::InfinitePast();  // next
  absl::Time lead_until_ = absl::InfinitePast();
  bool asked_in_vain_ = false;  // since the lead is over
  std::vector<int32_t> drained_;
  bool unsure_ = true;  // of what lies there: it is read before anything is written
  bool resigning_ = false;
};

}  // namespace interlace
