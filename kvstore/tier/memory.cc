// "memory": blocks in this process's memory; the kvstore server's upper tier.
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kvstore/tier/block_index.h"
#include "kvstore/tier/tiers.h"

namespace interlace {
namespace {

// Answers before each call returns.
class MemoryTier final : public KvTier {
 public:
  explicit MemoryTier(int64_t capacity_bytes) : index_(capacity_bytes) {}

  absl::string_view name() const override { return "memory"; }
  bool Wants() const override { return true; }

  void Probe(std::vector<BlockKey> keys, ProbeDone done) override {
    std::vector<bool> held;
    held.reserve(keys.size());
    {
      absl::MutexLock lock(&mutex_);
      for (const BlockKey& key : keys) held.push_back(index_.Holds(key));
    }
    done(std::move(held));
  }

  void Put(std::vector<StoredBlock> blocks, PutDone done) override {
    std::vector<absl::Status> statuses;
    std::vector<SharedBytes> freed;  // dies without the lock
    {
      absl::MutexLock lock(&mutex_);
      for (StoredBlock& block : blocks) statuses.push_back(Store(block, &freed));
    }
    done(std::move(statuses));
  }

  void Get(std::vector<BlockKey> keys, GetDone done) override {
    std::vector<absl::StatusOr<SharedBytes>> answers;
    answers.reserve(keys.size());
    {
      absl::MutexLock lock(&mutex_);
      for (const BlockKey& key : keys) answers.push_back(Find(key));
    }
    done(std::move(answers));
  }

  void Drop(std::vector<BlockKey> keys) override {
    std::vector<SharedBytes> freed;
    absl::MutexLock lock(&mutex_);
    for (const BlockKey& key : keys) {
      if (index_.Remove(key)) Free(key, &freed);
    }
  }

  TierUsage Usage() override {
    absl::MutexLock lock(&mutex_);
    return {index_.blocks(), index_.bytes(), index_.capacity_bytes()};
  }

 private:
  absl::Status Store(StoredBlock& block, std::vector<SharedBytes>* freed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto size = static_cast<int64_t>(block.bytes->size());
    std::vector<BlockKey> evicted;
    const BlockIndex::Added added = index_.Add(block.key, block.index, size, &evicted);
    for (const BlockKey& key : evicted) Free(key, freed);
    if (added == BlockIndex::Added::kTooLarge) {
      return absl::ResourceExhaustedError(
          absl::StrCat("memory tier holds at most ", index_.capacity_bytes(), " bytes, the block has ", size));
    }
    if (added == BlockIndex::Added::kNew) bytes_[block.key] = std::move(block.bytes);
    return absl::OkStatus();
  }

  void Free(const BlockKey& key, std::vector<SharedBytes>* freed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto it = bytes_.find(key);
    freed->push_back(std::move(it->second));
    bytes_.erase(it);
  }

  absl::StatusOr<SharedBytes> Find(const BlockKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (index_.Use(key)) return bytes_.at(key);
    return absl::NotFoundError(absl::StrCat("memory tier has no ", KeyText(key)));
  }

  absl::Mutex mutex_;
  BlockIndex index_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<BlockKey, SharedBytes> bytes_ ABSL_GUARDED_BY(mutex_);  // exactly what index_ holds
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> MakeMemoryTier(int64_t capacity_bytes) {
  if (capacity_bytes <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("host_bytes is ", capacity_bytes, "; the memory tier needs a capacity above 0"));
  }
  return std::make_unique<MemoryTier>(capacity_bytes);
}

}  // namespace interlace
