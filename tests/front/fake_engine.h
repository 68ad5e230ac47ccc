// FakeEngine: an Engine whose scheduler is the test.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/check.h"
#include "coordinator/engine.h"

namespace interlace {

// Keeps what was submitted and cancelled; the test calls the sinks. Any thread. Waits give up after 20 s, which only
// a broken test sees.
class FakeEngine final : public Engine {
 public:
  absl::Status Submit(Request request) override {
    absl::MutexLock lock(&mutex_);
    if (!refusal_.ok()) return refusal_;
    requests_.push_back(std::move(request));
    return absl::OkStatus();
  }
  void Cancel(RequestId id) override {
    absl::MutexLock lock(&mutex_);
    cancelled_.push_back(id);
  }
  void Stop(RequestId id) override {
    absl::MutexLock lock(&mutex_);
    stopped_.push_back(id);
  }
  absl::Status DrainReplica(int32_t replica, bool drains) override {
    absl::MutexLock lock(&mutex_);
    if (replica >= static_cast<int32_t>(load_.replicas.size())) return absl::InvalidArgumentError("replica: none");
    load_.replicas[static_cast<size_t>(replica)].draining = drains;
    return absl::OkStatus();
  }
  absl::StatusOr<Explanation> Explain(absl::string_view name) override {
    absl::MutexLock lock(&mutex_);
    const auto found = explanations_.find(std::string(name));
    if (found == explanations_.end()) return absl::NotFoundError("no such request");
    return found->second;
  }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override {
    absl::MutexLock lock(&mutex_);
    ++looks_;
    return snapshot_;
  }
  EngineLoad Load() override {
    absl::MutexLock lock(&mutex_);
    return load_;
  }

  void Refuse(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    refusal_ = std::move(status);
  }
  void SetSnapshot(absl::StatusOr<ReplicaSnapshot> snapshot) {
    absl::MutexLock lock(&mutex_);
    snapshot_ = std::move(snapshot);
  }
  // How often it was asked for a snapshot.
  int looks() {
    absl::MutexLock lock(&mutex_);
    return looks_;
  }
  void SetLoad(const EngineLoad& load) {
    absl::MutexLock lock(&mutex_);
    load_ = load;
  }
  void SetExplanation(const Explanation& explanation) {
    absl::MutexLock lock(&mutex_);
    explanations_[explanation.name] = explanation;
  }
  // The index-th submitted request.
  Request Await(size_t index) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return requests_.size() > index; };
    CHECK(mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20)));
    return requests_[index];
  }
  // What it holds of the index-th request is let go, as when a request has ended.
  void Forget(size_t index) {
    Request request = Await(index);
    absl::MutexLock lock(&mutex_);
    requests_[index] = Request{};
  }
  bool AwaitCancel(RequestId id) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return IsCancelled(id); };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20));
  }
  bool AwaitStop(RequestId id) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&] { return IsStopped(id); };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20));
  }
  bool cancelled(RequestId id) {
    absl::MutexLock lock(&mutex_);
    return IsCancelled(id);
  }
  bool stopped(RequestId id) {
    absl::MutexLock lock(&mutex_);
    return IsStopped(id);
  }
  size_t submitted() {
    absl::MutexLock lock(&mutex_);
    return requests_.size();
  }

 private:
  bool IsStopped(RequestId id) const { return std::find(stopped_.begin(), stopped_.end(), id) != stopped_.end(); }
  bool IsCancelled(RequestId id) const {
    return std::find(cancelled_.begin(), cancelled_.end(), id) != cancelled_.end();
  }

  absl::Mutex mutex_;
  absl::Status refusal_;
  std::vector<Request> requests_;
  std::vector<RequestId> cancelled_;
  std::vector<RequestId> stopped_;
  std::map<std::string, Explanation> explanations_;
  absl::StatusOr<ReplicaSnapshot> snapshot_ = ReplicaSnapshot{};
  int looks_ = 0;
  EngineLoad load_{.ranks_ready = 2, .ranks = 2};
};

inline RequestEnd EndOf(const Request& request, int32_t completion_tokens, FinishReason reason = FinishReason::kStop,
                        absl::Status status = absl::OkStatus()) {
  RequestEnd end;
  end.status = std::move(status);
  end.reason = reason;
  end.prompt_tokens = static_cast<int32_t>(request.prompt.size());
  end.completion_tokens = completion_tokens;
  end.timing = {absl::Milliseconds(1), absl::Milliseconds(2), absl::Milliseconds(3)};
  return end;
}

}  // namespace interlace
