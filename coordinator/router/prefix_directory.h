// PrefixDirectory: which blocks which replicas hold.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "coordinator/kv_observer.h"
#include "coordinator/router/routing_policy.h"
#include "kvstore/block_id.h"

namespace interlace {

// Blocks are looked up by the names that the schedulers give them, so tenants with other salts never meet. It follows
// the replicas by a moment: what it says may have gone when a request arrives there, which then computes it.
// Owned by ReplicaSet; any thread. A part of the table is locked at a time, for one block. The trap: memory grows with
// what replicas hold, which is bounded by theirs, and with what requests under way are about to compute.
class PrefixDirectory {
 public:
  explicit PrefixDirectory(int32_t replicas);
  ~PrefixDirectory();

  // What the replica's scheduler tells of its blocks.
  KvObserver& observer(int32_t replica);
  // A request with these blocks was sent to the replica, which will hold them; until Forget, once for each Expect.
  void Expect(int32_t replica, absl::Span<const BlockId> ids);
  void Forget(int32_t replica, absl::Span<const BlockId> ids);
  // Of each replica, how much of the beginning it holds; `held` gets one for each. Returns how many blocks from the
  // first on lie somewhere, on whichever replica.
  int32_t Match(absl::Span<const BlockId> ids, std::vector<HeldPrefix>* held) const;

  size_t blocks() const;  // that somebody holds or is about to
  size_t bytes() const;   // that the tables take

 private:
  class Observer;
  enum class Place : uint8_t { kNowhere, kHost, kDevice };
  struct Holder {
    uint16_t replica = 0;
    Place place = Place::kNowhere;
    uint32_t coming = 0;  // requests that are about to compute it there
  };
  using Holders = absl::InlinedVector<Holder, 2>;
  struct PartOfId {
    size_t operator()(const BlockId& id) const { return id.high; }
  };
  struct Part {
    mutable absl::Mutex mutex;
    absl::flat_hash_map<BlockId, Holders, PartOfId> entries;  // protected by mutex
  };
  static constexpr size_t kParts = 256;

  Part& PartOf(const BlockId& id) { return parts_[id.low % kParts]; }
  const Part& PartOf(const BlockId& id) const { return parts_[id.low % kParts]; }
  void SetPlace(int32_t replica, const BlockId& id, Place place);
  void Clear(int32_t replica);
  // The holder of the entry that is the replica; null: it is none.
  static Holder* Find(Holders& holders, int32_t replica);
  // Takes out the holder, and the entry with its last one, if nothing is left of it.
  static void Tidy(Part& part, const BlockId& id, Holders& holders, Holder* holder);

  const int32_t replicas_;
  std::array<Part, kParts> parts_;
  std::vector<std::unique_ptr<Observer>> observers_;
};

}  // namespace interlace
