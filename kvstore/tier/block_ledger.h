// BlockLedger: what a tier that writes later has promised to hold, in bytes.
#pragma once

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "kvstore/tier/tier.h"

namespace interlace {

// Owned by one tier; any thread. A block counts from Begin on, so that writes in flight never exceed the bound
// together. The trap: each Begin that was OK needs exactly one End.
class BlockLedger {
 public:
  explicit BlockLedger(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  // Makes room for a write of `bytes`, in place of the block's former bytes. ResourceExhausted if there is none.
  absl::Status Begin(const BlockKey& key, int64_t bytes);
  // The write ended; if it failed, the block is forgotten, former bytes included.
  void End(const BlockKey& key, bool ok);
  // True iff a write of the block is in flight and it was not dropped since.
  bool Awaits(const BlockKey& key) const;
  // True iff a write of the block ended well and it was not dropped since.
  bool Holds(const BlockKey& key) const;
  // Forgets the generation; a write that is in flight stays forgotten when it ends. False if nothing was known of it.
  bool Drop(Generation generation);
  TierUsage Usage() const;

 private:
  struct Entry {
    int64_t bytes = 0;
    int writes = 0;     // in flight
    bool held = false;  // some write ended well
  };
  using Entries = absl::flat_hash_map<BlockKey, Entry>;

  const Entry* Find(const BlockKey& key) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t capacity_bytes_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<Generation, Entries> generations_;  // protected by mutex_
  int64_t blocks_ = 0;                                    // protected by mutex_
  int64_t bytes_ = 0;                                     // protected by mutex_
};

}  // namespace interlace
