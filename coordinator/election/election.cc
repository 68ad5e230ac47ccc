#include "coordinator/election/election.h"

#include <algorithm>
#include <utility>

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
    } else if (!Wait(told_lead_ ? std::min(turn.until, state_.lead_until()) : turn.until)) {
      return;
    }
  }
}

void Election::Do(const ElectionState::Turn& turn) {
  // No call outlasts the lead: its end is told in time.
  ElectionState::Turn bounded = turn;
  if (told_lead_)
    bounded.within = std::min(turn.within, std::max(absl::Milliseconds(1), state_.lead_until() - clock_.Now()));
  if (turn.kind == ElectionState::Turn::Kind::kWrite) return Write(bounded);
  const absl::StatusOr<std::optional<StoredRecord>> stored = store_.Read(bounded.within);
  stored.ok() ? state_.OnRead(clock_.Now(), *stored) : Fail(stored.status());
}

void Election::Write(const ElectionState::Turn& turn) {
  const absl::Time began = clock_.Now();
  const absl::StatusOr<std::string> version = store_.Write(turn.write.record, turn.write.version, turn.within);
  if (version.ok()) {
    state_.OnWritten(began, turn.write.record, *version);
  } else if (absl::IsAborted(version.status())) {
    state_.OnRefused();
  } else {
    Fail(version.status());
  }
}

void Election::Fail(const absl::Status& status) {
  failures_.Add();
  if (const std::optional<int64_t> held_back = complaints_.Pass(clock_.Now())) {
    LOG(WARNING) << "the store of the leader's record does not answer" << status << Field("more", *held_back);
  }
  state_.OnFailed(clock_.Now());
}

void Election::Tell() {
  const absl::Time until = state_.lead_until();
  const bool leads = clock_.Now() < until;
  if (told_lead_ && (!leads || !window_.Extend(until))) Follow(leads ? std::nullopt : state_.other());
  if (leads && !told_lead_) {
    told_lead_ = state_.epoch();
    told_follow_.reset();
    window_.Open(until);
    leads_.Set(1);
    epoch_.Set(static_cast<double>(*told_lead_));
    LOG(INFO) << "this coordinator leads" << Field("epoch", *told_lead_);
    events_.lead(*told_lead_);
  } else if (!leads && (!told_follow_ || !SameLeader(*told_follow_, state_.other()))) {
    Follow(state_.other());
  }
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
