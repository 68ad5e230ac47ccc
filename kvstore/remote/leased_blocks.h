// LeasedBlocks: what a kvstore holds, by client, in tiers below each other.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/entropy.h"
#include "kvstore/tier/tier.h"

namespace interlace {

enum class LeaseId : uint64_t {};  // drawn at random; 0 is never one

// Two clients may use the same keys: each generation of each lease gets a generation of the store's own. A write goes
// to the first tier that takes it; the index says which one, so that a read asks no other. Owned by the store server;
// thread-safe. Lock: mutex_ alone, never held across a call into a tier or a `done`.
// The trap: the tiers' `done` may come after CloseLease; what lands late is dropped then.
class LeasedBlocks {
 public:
  // Tiers in the order in which writes try them.
  LeasedBlocks(std::vector<std::unique_ptr<KvTier>> tiers, std::unique_ptr<Entropy> entropy);

  LeaseId OpenLease();
  void CloseLease(LeaseId lease);  // drops everything that it holds

  // False: no such lease, and `done` does not run.
  bool Write(LeaseId lease, std::vector<StoredBlock> blocks, KvTier::WriteDone done);
  bool Read(LeaseId lease, const std::vector<BlockKey>& keys, KvTier::ReadDone done);
  bool Drop(LeaseId lease, Generation generation);

  // Of one lease; zero if there is none. The capacity is that of all tiers.
  TierUsage UsageOf(LeaseId lease) const;
  std::vector<std::pair<std::string, TierUsage>> Usage() const;  // by tier
  int64_t leases() const;

 private:
  struct Held {           // one generation of one lease
    Generation stored{};  // its name in the tiers
    int64_t writes = 0;   // in flight
    bool dropped = false;
    struct Place {
      size_t tier;
      int64_t bytes;
    };
    absl::flat_hash_map<BlockKey, Place> blocks;  // by the key in the tiers
    int64_t bytes = 0;
    TierUsage* lease_usage = nullptr;  // valid while not dropped
  };
  struct Lease {
    absl::flat_hash_map<Generation, std::shared_ptr<Held>> generations;
    TierUsage usage;
  };
  struct WriteJob;
  struct ReadJob;

  // Marks the blocks as dropped; true iff no write is in flight, and then the tiers must drop them.
  static bool Retire(Held& held);
  void DropStored(const std::vector<Generation>& stored);
  void TryTier(std::shared_ptr<WriteJob> job, size_t tier, std::vector<size_t> indices);
  void FinishWrite(WriteJob& job);

  const std::vector<std::unique_ptr<KvTier>> tiers_;
  int64_t capacity_bytes_ = 0;
  mutable absl::Mutex mutex_;
  std::unique_ptr<Entropy> entropy_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_stored_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<LeaseId, std::unique_ptr<Lease>> leases_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace interlace
