#include "coordinator/election/election.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/log.h"

namespace interlace {
namespace {

// Records of one leader are told once, however often it renews them.
bool SameLeader(const std::optional<LeadRecord>& a, const std::optional<LeadRecord>& b) {
  return a.has_value() == b.has_value() && (!a || (a->epoch == b->epoch && a->holder == b->holder));
}

}  // namespace

Election::Election(const ElectionState::Options& options, LeadStore& store, LeadWindow& window, Clock& clock,
                   Metrics& metrics, Events events)
    : state_(options, clock.Now()),
      store_(store),
      window_(window),
      clock_(clock),
      events_(std::move(events)),
      leads_(metrics.gauge("interlace_leads")),
      epoch_(metrics.gauge("interlace_lead_epoch")),
      failures_(metrics.counter("interlace_election_failures_total")),
      thread_("election", [this] { Run(); }) {}

Election::~Election() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.Join();
}

void Election::Resign(absl::Duration within) {
  absl::MutexLock lock(&mutex_);
  resigning_ = true;
  mutex_.AwaitWithTimeout(absl::Condition(&resigned_), within);
}

bool Election::Wait(absl::Time until) {
  absl::MutexLock lock(&mutex_);
  const auto disturbed = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stop_ || (resigning_ && !resigned_); };
  mutex_.AwaitWithTimeout(absl::Condition(&disturbed), until - clock_.Now());
  return !stop_;
}

void Election::Run() {
  while (true) {
    if (told_lead_) state_.SetDrained(events_.drained());
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) return;
      if (resigning_) state_.Resign();
    }
    Tell();
    const absl::Time now = clock_.Now();
    const ElectionState::Turn turn = state_.Next(now);
    if (turn.kind != ElectionState::Turn::Kind::kWait) {
      Do(turn);
    } else if (state_.resigned()) {
      absl::MutexLock lock(&mutex_);
      resigned_ = true;
      mutex_.Await(absl::Condition(&stop_));
    } else if (!Wait(std::min(turn.until, NextTelling()))) {
      return;
    }
  }
}

// The end of the lead, or of what is kept behind it.
absl::Time Election::NextTelling() const {
  if (!told_lead_) return absl::InfiniteFuture();
  return clock_.Now() < state_.lead_until() ? state_.lead_until() : state_.keep_until();
}

void Election::Do(const ElectionState::Turn& turn) {
  // No call outlasts what is told next.
  ElectionState::Turn bounded = turn;
  const absl::Time began = clock_.Now();
  bounded.within = std::min(turn.within, std::max(absl::Milliseconds(1), NextTelling() - began));
  if (turn.kind == ElectionState::Turn::Kind::kWrite) return Write(bounded);
  const absl::StatusOr<std::optional<StoredRecord>> stored = store_.Read(bounded.within);
  stored.ok() ? state_.OnRead(clock_.Now(), *stored) : Fail(began, stored.status());
}

void Election::Write(const ElectionState::Turn& turn) {
  const absl::Time began = clock_.Now();
  const absl::StatusOr<std::string> version = store_.Write(turn.write.record, turn.write.version, turn.within);
  if (version.ok()) {
    state_.OnWritten(began, turn.write.record, *version);
  } else if (absl::IsAborted(version.status())) {
    state_.OnRefused();
  } else {
    Fail(began, version.status());
  }
}

void Election::Fail(absl::Time began, const absl::Status& status) {
  failures_.Add();
  if (const std::optional<int64_t> held_back = complaints_.Pass(clock_.Now())) {
    LOG(WARNING) << "the store of the leader's record does not answer" << status << Field("more", *held_back);
  }
  state_.OnFailed(began, clock_.Now());
}

void Election::Tell() {
  const absl::Time now = clock_.Now(), until = state_.lead_until();
  const bool leads = now < until;
  if (told_lead_ && leads) {
    if (!window_.Extend(until)) Resume(until);
  } else if (told_lead_ && now < state_.keep_until()) {
    leads_.Set(0);  // the window is over by itself
  } else if (leads) {
    told_lead_ = state_.epoch();
    told_follow_.reset();
    window_.Open(until);
    leads_.Set(1);
    epoch_.Set(static_cast<double>(*told_lead_));
    LOG(INFO) << "this coordinator leads" << Field("epoch", *told_lead_);
    events_.lead(*told_lead_, state_.drained());
  } else if (told_lead_ || !told_follow_ || !SameLeader(*told_follow_, state_.other())) {
    Follow(state_.other());
  }
}

// The epoch is the one that was told: the state finds the record its own in a higher one only behind a time in which it
// was not, which was told.
void Election::Resume(absl::Time until) {
  CHECK(state_.epoch() == *told_lead_);
  window_.Open(until);
  leads_.Set(1);
  LOG(WARNING) << "this coordinator was late to renew its lead; nobody else had it, and its ranks stay"
               << Field("epoch", *told_lead_);
  events_.resume();
}

void Election::Follow(const std::optional<LeadRecord>& leader) {
  window_.Close(leader);
  if (told_lead_) LOG(WARNING) << "this coordinator leads no more" << Field("epoch", *told_lead_);
  if (leader) {
    LOG(INFO) << "another coordinator leads" << Field("epoch", leader->epoch) << Field("http", leader->http)
              << Field("grpc", leader->grpc);
    epoch_.Set(static_cast<double>(leader->epoch));
  }
  told_lead_.reset();
  told_follow_ = leader;
  leads_.Set(0);
  events_.follow(leader);
}

}  // namespace interlace
