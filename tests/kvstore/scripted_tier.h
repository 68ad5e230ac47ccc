// A tier whose answers a test controls.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "kvstore/tier/tier.h"

namespace interlace {

// Stores in memory, without a bound. The stack under test owns it; the test keeps a pointer. Thread-safe.
class ScriptedTier final : public KvTier {
 public:
  explicit ScriptedTier(std::string name) : name_(std::move(name)) {}
  ~ScriptedTier() override { Answer(); }

  // --- the script
  // Calls are remembered and answered by Answer().
  void Hold() {
    absl::MutexLock lock(&mutex_);
    hold_ = true;
  }
  void Answer() {
    std::deque<absl::AnyInvocable<void()>> held;
    {
      absl::MutexLock lock(&mutex_);
      hold_ = false;
      held.swap(held_);
    }
    for (auto& answer : held) answer();
  }
  void SetWants(bool wants) {
    absl::MutexLock lock(&mutex_);
    wants_ = wants;
  }
  // Every put and get gets this status, unless it is OK.
  void AnswerWith(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    status_ = std::move(status);
  }
  void Store(const BlockKey& key, SharedBytes bytes) {
    absl::MutexLock lock(&mutex_);
    stored_[key] = std::move(bytes);
  }

  // --- what happened
  std::vector<std::vector<BlockKey>> WaitForGets(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [this, count]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return gets_.size() >= count; };
    mutex_.Await(absl::Condition(&enough));
    return gets_;
  }
  void WaitForBlocks(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [this, count]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stored_.size() >= count; };
    mutex_.Await(absl::Condition(&enough));
  }
  bool Holds(const BlockKey& key) {
    absl::MutexLock lock(&mutex_);
    return stored_.contains(key);
  }

  // --- the tier
  absl::string_view name() const override { return name_; }
  bool Wants() const override {
    absl::MutexLock lock(&mutex_);
    return wants_;
  }
  void Probe(std::vector<BlockKey> keys, ProbeDone done) override {
    Take([this, keys = std::move(keys), done = std::move(done)]() mutable {
      std::vector<bool> held;
      {
        absl::MutexLock lock(&mutex_);
        for (const BlockKey& key : keys) held.push_back(status_.ok() && stored_.contains(key));
      }
      done(std::move(held));
    });
  }
  void Put(std::vector<StoredBlock> blocks, PutDone done) override {
    Take([this, blocks = std::move(blocks), done = std::move(done)]() mutable {
      std::vector<absl::Status> statuses;
      {
        absl::MutexLock lock(&mutex_);
        for (StoredBlock& block : blocks) {
          if (status_.ok()) stored_[block.key] = std::move(block.bytes);
          statuses.push_back(status_);
        }
      }
      done(std::move(statuses));
    });
  }
  void Get(std::vector<BlockKey> keys, GetDone done) override {
    {
      absl::MutexLock lock(&mutex_);
      gets_.push_back(keys);
    }
    Take([this, keys = std::move(keys), done = std::move(done)]() mutable {
      std::vector<absl::StatusOr<SharedBytes>> answers;
      {
        absl::MutexLock lock(&mutex_);
        for (const BlockKey& key : keys) {
          const auto it = stored_.find(key);
          if (!status_.ok()) {
            answers.push_back(status_);
          } else if (it == stored_.end()) {
            answers.push_back(absl::NotFoundError("not stored"));
          } else {
            answers.push_back(it->second);
          }
        }
      }
      done(std::move(answers));
    });
  }
  void Drop(std::vector<BlockKey> keys) override {
    absl::MutexLock lock(&mutex_);
    for (const BlockKey& key : keys) stored_.erase(key);
  }
  TierUsage Usage() override {
    absl::MutexLock lock(&mutex_);
    TierUsage usage;
    usage.blocks = static_cast<int64_t>(stored_.size());
    for (const auto& [key, bytes] : stored_) usage.bytes += static_cast<int64_t>(bytes->size());
    return usage;
  }

 private:
  void Take(absl::AnyInvocable<void()> answer) {
    {
      absl::MutexLock lock(&mutex_);
      if (hold_) return held_.push_back(std::move(answer));
    }
    answer();
  }

  const std::string name_;
  mutable absl::Mutex mutex_;
  bool hold_ = false, wants_ = true;
  absl::Status status_;
  std::vector<std::vector<BlockKey>> gets_;
  std::deque<absl::AnyInvocable<void()>> held_;
  std::map<BlockKey, SharedBytes> stored_;
};

}  // namespace interlace
