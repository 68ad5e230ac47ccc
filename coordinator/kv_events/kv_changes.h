// KvChanges: what the blocks of a replica did since somebody last asked, one change for each block.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/kv_observer.h"

namespace interlace {

// A block and what is known of it for good.
struct KvBlockText {
  BlockId parent;
  std::vector<int32_t> tokens;
  std::shared_ptr<const ServedAdapter> adapter = nullptr;  // null: none
};

// What became of a block since the last Take.
struct KvChange {
  BlockId id;
  bool sealed = false;              // it was not known before
  std::optional<KvBlockText> text;  // if it was not, and is no tenant's alone
  bool erased = false;              // nothing is known of it any more
  std::optional<KvMedium> medium;   // where it lies now
};

struct KvChangeSet {
  bool cleared = false;  // before the changes: all that was known is void
  std::vector<KvChange> changes;
};

// Between the replica's thread, which must not wait, and whoever makes events of it. Changes of one block are joined,
// so there is never more here than blocks in the directory now and blocks that were in it at the last Take, however
// late the taker is. Blocks with a salt are one tenant's alone: their texts are not kept.
// Owned by KvEventLog. Observer calls: the replica's thread; Take: one other.
class KvChanges final : public KvObserver {
 public:
  // `wake` is called on the replica's thread when there is something to take and was nothing.
  explicit KvChanges(std::function<void()> wake) : wake_(std::move(wake)) {}
  KvChangeSet Take();

  void OnSealed(const KvBlockSeen& block) override;
  void OnStored(const BlockId& id, KvMedium medium) override;
  void OnRemoved(const BlockId& id, KvMedium medium) override;
  void OnErased(const BlockId& id) override;
  void OnCleared() override;

 private:
  template <typename Body>
  void Change(const BlockId& id, Body body);
  void Drop(const BlockId& id);  // mutex_ is held

  const std::function<void()> wake_;
  absl::Mutex mutex_;
  KvChangeSet changed_;                      // protected by mutex_
  absl::flat_hash_map<BlockId, size_t> at_;  // in changed_; protected by mutex_
  bool awake_ = false;                       // `wake` was called since the last Take; protected by mutex_
};

}  // namespace interlace
