// Candidate: an Election on a store, and what it told.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/metrics.h"
#include "coordinator/election/election.h"

namespace interlace {

// Waits give up after 20 s, which only a broken test sees.
class Candidate {
 public:
  Candidate(const std::string& name, LeadStore& store, absl::Duration lease)
      : election_(std::make_unique<Election>(
            ElectionState::Options{.self = {.holder = name, .lease = lease, .http = name + ":1", .grpc = name + ":2"},
                                   .first_epoch = 1000},
            store, window_, clock_, metrics_,
            Election::Events{.lead =
                                 [this](uint64_t epoch, const std::vector<int32_t>& drained) {
                                   absl::MutexLock lock(&mutex_);
                                   open_at_lead_ = window_.Holds();
                                   leads_ = epoch;
                                   drained_ = drained;
                                   ++told_;
                                 },
                             .resume =
                                 [this] {
                                   absl::MutexLock lock(&mutex_);
                                   open_at_lead_ = window_.Holds();
                                   ++resumed_;
                                 },
                             .follow =
                                 [this](const std::optional<LeadRecord>& leader) {
                                   absl::MutexLock lock(&mutex_);
                                   leads_.reset();
                                   leader_ = leader;
                                   ++told_;
                                 },
                             .drained =
                                 [this] {
                                   absl::MutexLock lock(&mutex_);
                                   return drained_;
                                 }})) {}
  ~Candidate() { election_.reset(); }

  // Leaves the record as it is, as a process does that is killed.
  void Die() { election_.reset(); }
  void Resign() { election_->Resign(absl::Seconds(20)); }
  LeadWindow& window() { return window_; }
  RealClock& clock() { return clock_; }

  // The epoch.
  std::optional<uint64_t> AwaitLead() {
    absl::MutexLock lock(&mutex_);
    const auto leads = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return leads_.has_value(); };
    mutex_.AwaitWithTimeout(absl::Condition(&leads), absl::Seconds(20));
    return leads_;
  }
  std::optional<LeadRecord> AwaitLeader(const std::string& name) {
    absl::MutexLock lock(&mutex_);
    const auto known = [this, &name]()
                           ABSL_NO_THREAD_SAFETY_ANALYSIS { return !leads_ && leader_ && leader_->holder == name; };
    mutex_.AwaitWithTimeout(absl::Condition(&known), absl::Seconds(20));
    return leader_;
  }
  bool AwaitFollow() {
    absl::MutexLock lock(&mutex_);
    const auto follows = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !leads_; };
    return mutex_.AwaitWithTimeout(absl::Condition(&follows), absl::Seconds(20));
  }
  std::optional<uint64_t> leads() {
    absl::MutexLock lock(&mutex_);
    return leads_;
  }
  bool open_at_lead() {
    absl::MutexLock lock(&mutex_);
    return open_at_lead_;
  }
  bool AwaitTold(int events) {
    absl::MutexLock lock(&mutex_);
    const auto told = [this, events]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return told_ >= events; };
    return mutex_.AwaitWithTimeout(absl::Condition(&told), absl::Seconds(20));
  }
  bool AwaitResumed(int times, absl::Duration within = absl::Seconds(20)) {
    absl::MutexLock lock(&mutex_);
    const auto resumed = [this, times]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return resumed_ >= times; };
    return mutex_.AwaitWithTimeout(absl::Condition(&resumed), within);
  }
  // Looks until the window is over, which nobody tells.
  bool AwaitOver() {
    const absl::Time limit = clock_.Now() + absl::Seconds(20);
    absl::MutexLock lock(&mutex_);
    const auto never = [] { return false; };
    while (window_.Holds()) {
      if (clock_.Now() >= limit) return false;
      mutex_.AwaitWithTimeout(absl::Condition(&never), absl::Milliseconds(1));
    }
    return true;
  }
  // What it has drained; of a leader, what it was told when it began.
  std::vector<int32_t> drained() {
    absl::MutexLock lock(&mutex_);
    return drained_;
  }
  void Drain(std::vector<int32_t> replicas) {
    absl::MutexLock lock(&mutex_);
    drained_ = std::move(replicas);
  }
  // Leads and ends of leads so far.
  int told() {
    absl::MutexLock lock(&mutex_);
    return told_;
  }

 private:
  RealClock clock_;
  Metrics metrics_{"test"};
  LeadWindow window_{clock_};
  absl::Mutex mutex_;
  std::optional<uint64_t> leads_;  // protected by mutex_, as everything below
  std::optional<LeadRecord> leader_;
  bool open_at_lead_ = false;
  int told_ = 0;
  int resumed_ = 0;
  std::vector<int32_t> drained_;
  std::unique_ptr<Election> election_;
};

}  // namespace interlace
