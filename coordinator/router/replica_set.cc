#include "coordinator/router/replica_set.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {

ReplicaSet::ReplicaSet(const Options& options, const std::vector<Member>& members, Clock& clock, Metrics& metrics)
    : clock_(clock) {
  if (members.size() == 1) {
    ReplicaLoop::Options loop = options.loop;
    loop.scheduler.kv_observer = members[0].observer;
    loops_.push_back(std::make_unique<ReplicaLoop>(loop, *options.policy, clock, metrics, *members[0].channel));
    return;
  }
  const auto count = static_cast<int32_t>(members.size());
  directory_ = std::make_unique<PrefixDirectory>(count);
  router_ = std::make_unique<Router>(Router::Options{.policy = options.routing,
                                                     .roles = options.roles,
                                                     .secret = options.loop.scheduler.secret,
                                                     .reform_timeout = options.loop.scheduler.reform_timeout,
                                                     .wake = [this] { Wake(); }},
                                     count, *directory_, clock, metrics);
  std::vector<Engine*> engines;
  for (int32_t r = 0; r < count; ++r) {
    metrics_.push_back(std::make_unique<Metrics>(metrics, "replica", absl::StrCat(r)));
    ReplicaLoop::Options loop = options.loop;
    loop.scheduler.hands_over = true;
    const Member& member = members[static_cast<size_t>(r)];
    std::vector<KvObserver*> told = {&directory_->observer(r)};
    if (member.observer != nullptr) told.push_back(member.observer);
    told_.push_back(std::make_unique<KvFanOut>(std::move(told)));
    loop.scheduler.kv_observer = told_.back().get();
    loop.changed = [this] { Wake(); };
    loops_.push_back(std::make_unique<ReplicaLoop>(loop, *options.policy, clock, *metrics_.back(), *member.channel));
    engines.push_back(loops_.back().get());
  }
  router_->Connect(std::move(engines));
  settling_ = Thread("router", [this] { Run(); });
}

ReplicaSet::~ReplicaSet() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  settling_.Join();
}

Engine& ReplicaSet::engine() {
  if (router_ == nullptr) return *loops_[0];
  return *router_;
}

absl::StatusOr<LearnedCosts> ReplicaSet::Learned() {
  absl::StatusOr<LearnedCosts> learned = loops_[0]->Learned();
  for (size_t r = 1; learned.ok() && r < loops_.size(); ++r) {
    const absl::StatusOr<LearnedCosts> more = loops_[r]->Learned();
    if (!more.ok()) return more;
    learned->PutLatestOf(*more);
  }
  return learned;
}

void ReplicaSet::Lead(const std::vector<int32_t>& drained) {
  if (router_ == nullptr) return;
  const std::vector<int32_t> own = Drained();
  const auto has = [](const std::vector<int32_t>& all, int32_t r) {
    return std::find(all.begin(), all.end(), r) != all.end();
  };
  for (int32_t r = 0; r < static_cast<int32_t>(loops_.size()); ++r) {
    if (has(drained, r) != has(own, r)) CHECK(router_->DrainReplica(r, has(drained, r)).ok());
  }
  router_->Follow(absl::OkStatus());
}

std::vector<int32_t> ReplicaSet::Drained() {
  std::vector<int32_t> drained;
  if (router_ == nullptr) return drained;
  const std::vector<ReplicaDrain> replicas = router_->Load().replicas;
  for (size_t r = 0; r < replicas.size(); ++r) {
    if (replicas[r].draining) drained.push_back(static_cast<int32_t>(r));
  }
  return drained;
}

void ReplicaSet::Follow(const absl::Status& why) {
  if (router_ != nullptr) router_->Follow(why);
  for (const auto& loop : loops_) loop->EndAll(why);
}

void ReplicaSet::Wake() {
  absl::MutexLock lock(&mutex_);
  awake_ = true;
}

void ReplicaSet::Run() {
  absl::Time next = absl::InfiniteFuture();
  const auto due = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return awake_ || stop_; };
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&due), next - clock_.Now());
      if (stop_) return;
      awake_ = false;
    }
    next = router_->Settle();
  }
}

}  // namespace interlace
