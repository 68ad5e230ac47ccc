// "host": blocks in this process's memory.
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kvstore/tier/tiers.h"

namespace interlace {
namespace {

// Answers before each call returns.
class HostTier final : public KvTier {
 public:
  explicit HostTier(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  absl::string_view name() const override { return "host"; }

  void Write(std::vector<StoredBlock> blocks, WriteDone done) override {
    std::vector<absl::Status> statuses;
    statuses.reserve(blocks.size());
    {
      absl::MutexLock lock(&mutex_);
      for (StoredBlock& block : blocks) statuses.push_back(Store(block));
    }
    done(std::move(statuses));  // the bytes of replaced blocks, now in `blocks`, die without the lock
  }

  void Read(std::vector<BlockKey> keys, ReadDone done) override {
    std::vector<absl::StatusOr<SharedBytes>> answers;
    answers.reserve(keys.size());
    {
      absl::MutexLock lock(&mutex_);
      for (const BlockKey& key : keys) answers.push_back(Find(key));
    }
    done(std::move(answers));
  }

  void Drop(Generation generation) override {
    Blocks dropped;  // dies without the lock
    absl::MutexLock lock(&mutex_);
    auto it = generations_.find(generation);
    if (it == generations_.end()) return;
    dropped = std::move(it->second);
    generations_.erase(it);
    for (const auto& [key, bytes] : dropped) bytes_ -= static_cast<int64_t>(bytes->size());
    blocks_ -= static_cast<int64_t>(dropped.size());
  }

  TierUsage Usage() override {
    absl::MutexLock lock(&mutex_);
    return {blocks_, bytes_, capacity_bytes_};
  }

 private:
  using Blocks = absl::flat_hash_map<BlockKey, SharedBytes>;

  // Swaps a replaced block's bytes into `block`.
  absl::Status Store(StoredBlock& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const int64_t size = static_cast<int64_t>(block.bytes->size());
    Blocks* stored = nullptr;
    if (auto it = generations_.find(block.key.generation); it != generations_.end()) stored = &it->second;
    const auto old = stored ? stored->find(block.key) : Blocks::iterator{};
    const bool replaces = stored && old != stored->end();
    const int64_t growth = size - (replaces ? static_cast<int64_t>(old->second->size()) : 0);
    if (bytes_ + growth > capacity_bytes_) {
      return absl::ResourceExhaustedError(absl::StrCat("host tier is full: ", bytes_, " of ", capacity_bytes_,
                                                       " bytes taken, ", size, " asked for; raise host_bytes"));
    }
    bytes_ += growth;
    if (replaces) {
      old->second.swap(block.bytes);
    } else {
      ++blocks_;
      generations_[block.key.generation].emplace(block.key, std::move(block.bytes));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<SharedBytes> Find(const BlockKey& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (auto of = generations_.find(key.generation); of != generations_.end()) {
      if (auto it = of->second.find(key); it != of->second.end()) return it->second;
    }
    return absl::NotFoundError(absl::StrCat("host tier has no block of ", KeyText(key)));
  }

  const int64_t capacity_bytes_;
  absl::Mutex mutex_;
  absl::flat_hash_map<Generation, Blocks> generations_;  // protected by mutex_
  int64_t blocks_ = 0;                                   // protected by mutex_
  int64_t bytes_ = 0;                                    // protected by mutex_
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> MakeHostTier(const TierOptions& options) {
  if (options.host_bytes <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("host_bytes is ", options.host_bytes, "; the host tier needs a capacity above 0"));
  }
  return std::make_unique<HostTier>(options.host_bytes);
}

}  // namespace interlace
