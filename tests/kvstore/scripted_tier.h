// A tier whose answers a test controls.
#pragma once

#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "kvstore/tier/tier.h"

namespace interlace {

// Stores in memory. The engine under test owns it; the test keeps a pointer. Thread-safe.
class ScriptedTier final : public KvTier {
 public:
  explicit ScriptedTier(std::string name) : name_(std::move(name)) {}

  // --- the script
  // Calls are remembered and answered one by one by Answer().
  void Hold() {
    absl::MutexLock lock(&mutex_);
    hold_ = true;
  }
  // The next call does not return to the engine until Resume(), so that the test can queue behind it.
  void Stall() {
    absl::MutexLock lock(&mutex_);
    stalled_ = true;
  }
  void Resume() {
    absl::MutexLock lock(&mutex_);
    stalled_ = false;
  }
  // Writes of these keys (of all, if empty) get `status`.
  void Refuse(absl::Status status, std::vector<BlockKey> keys = {}) {
    absl::MutexLock lock(&mutex_);
    refusal_ = std::move(status);
    refused_.clear();
    for (const BlockKey& key : keys) refused_.insert(EncodeKey(key));
  }
  void AnswerReadsWith(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    read_status_ = std::move(status);
  }
  void Lose(const BlockKey& key) {
    absl::MutexLock lock(&mutex_);
    stored_.erase(EncodeKey(key));
  }

  // --- what happened
  struct Call {
    char kind;  // 'w' or 'r'
    std::vector<BlockKey> keys;
    friend bool operator==(const Call&, const Call&) = default;
  };
  // Waits until that many calls were made.
  std::vector<Call> WaitForCalls(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto made = [this, count]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return calls_.size() >= count; };
    mutex_.Await(absl::Condition(&made));
    return calls_;
  }
  // Answers the oldest held call.
  void Answer() {
    absl::AnyInvocable<void()> answer;
    {
      absl::MutexLock lock(&mutex_);
      const auto any = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !held_.empty(); };
      mutex_.Await(absl::Condition(&any));
      answer = std::move(held_.front());
      held_.pop_front();
    }
    answer();
  }
  // Answers what is held, and from now on at once.
  void Release() {
    std::deque<absl::AnyInvocable<void()>> held;
    {
      absl::MutexLock lock(&mutex_);
      hold_ = stalled_ = false;
      held.swap(held_);
    }
    for (auto& answer : held) answer();
  }
  std::vector<Generation> drops() {
    absl::MutexLock lock(&mutex_);
    return drops_;
  }
  std::map<std::string, SharedBytes> stored() {
    absl::MutexLock lock(&mutex_);
    return stored_;
  }

  // --- the tier
  absl::string_view name() const override { return name_; }
  void Write(std::vector<StoredBlock> blocks, WriteDone done) override {
    std::vector<BlockKey> keys;
    for (const StoredBlock& block : blocks) keys.push_back(block.key);
    Took('w', std::move(keys),
         [this, blocks = std::move(blocks), done = std::move(done)]() mutable { done(Store(blocks)); });
  }
  void Read(std::vector<BlockKey> keys, ReadDone done) override {
    Took('r', keys, [this, keys, done = std::move(done)]() mutable { done(Find(keys)); });
  }
  void Drop(Generation generation) override {
    absl::MutexLock lock(&mutex_);
    drops_.push_back(generation);
    std::erase_if(stored_, [&](const auto& entry) {
      BlockKey key;
      return DecodeKey(entry.first, &key) && key.generation == generation;
    });
  }
  TierUsage Usage() override {
    absl::MutexLock lock(&mutex_);
    TierUsage usage;
    usage.blocks = static_cast<int64_t>(stored_.size());
    for (const auto& [key, bytes] : stored_) usage.bytes += static_cast<int64_t>(bytes->size());
    return usage;
  }

 private:
  void Took(char kind, std::vector<BlockKey> keys, absl::AnyInvocable<void()> answer) {
    {
      absl::MutexLock lock(&mutex_);
      calls_.push_back({kind, std::move(keys)});
      const auto running = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !stalled_; };
      mutex_.Await(absl::Condition(&running));
      if (hold_) return held_.push_back(std::move(answer));
    }
    answer();
  }
  std::vector<absl::Status> Store(const std::vector<StoredBlock>& blocks) {
    absl::MutexLock lock(&mutex_);
    std::vector<absl::Status> statuses;
    for (const StoredBlock& block : blocks) {
      const std::string name = EncodeKey(block.key);
      const bool refused = !refusal_.ok() && (refused_.empty() || refused_.count(name) > 0);
      if (!refused) stored_[name] = block.bytes;
      statuses.push_back(refused ? refusal_ : absl::OkStatus());
    }
    return statuses;
  }
  std::vector<absl::StatusOr<SharedBytes>> Find(const std::vector<BlockKey>& keys) {
    absl::MutexLock lock(&mutex_);
    std::vector<absl::StatusOr<SharedBytes>> answers;
    for (const BlockKey& key : keys) {
      auto it = stored_.find(EncodeKey(key));
      if (!read_status_.ok()) {
        answers.push_back(read_status_);
      } else if (it == stored_.end()) {
        answers.push_back(absl::NotFoundError("not stored"));
      } else {
        answers.push_back(it->second);
      }
    }
    return answers;
  }

  const std::string name_;
  absl::Mutex mutex_;
  bool hold_ = false, stalled_ = false;
  absl::Status refusal_, read_status_;
  std::set<std::string> refused_;
  std::vector<Call> calls_;
  std::vector<Generation> drops_;
  std::deque<absl::AnyInvocable<void()>> held_;
  std::map<std::string, SharedBytes> stored_;
};

}  // namespace interlace
