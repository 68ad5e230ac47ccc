// PrefixDirectory: which blocks which replicas hold.
#pragma once

#include <array>
#include <atomic>
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
// A replica that is lost takes its blocks with it at once: they belong to a former generation of it, and count for
// nothing. They are swept out together when they have become many, since a sweep walks the blocks of all replicas.
// Owned by ReplicaSet; any thread. A part of the table is locked at a time, for one block. The trap: memory grows with
// what replicas hold, which is bounded by theirs, with a third of that (kMostStale) that lost ones held, and with what
// requests under way are about to compute.
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

  size_t blocks() const;                    // that somebody holds or is about to, and what was not swept out yet
  size_t bytes() const;                     // that the tables take
  int64_t swept() const { return swept_; }  // entries that sweeps have walked

 private:
  class Observer;
  enum class Place : uint8_t { kNowhere, kHost, kDevice };
  struct Holder {
    uint16_t replica = 0;
    Place place = Place::kNowhere;
    uint8_t generation = 0;  // of the replica when it was placed there
    uint32_t coming = 0;     // requests that are about to compute it there
  };
  using Holders = absl::InlinedVector<Holder, 2>;
  struct PartOfId {
    size_t operator()(const BlockId& id) const { return id.high; }
  };
  struct Part {
    mutable absl::Mutex mutex;
    absl::flat_hash_map<BlockId, Holders, PartOfId> entries;  // protected by mutex
  };
  static constexpr size_t kParts = 1024;      // one that grows is locked while it moves all that it holds
  static constexpr double kMostStale = 0.33;  // of what replicas hold

  Part& PartOf(const BlockId& id) { return parts_[id.low % kParts]; }
  const Part& PartOf(const BlockId& id) const { return parts_[id.low % kParts]; }
  // By how many blocks the replica holds more.
  int64_t SetPlace(int32_t replica, const BlockId& id, Place place);
  void Clear(int32_t replica);
  void Sweep();
  // Where the holder has the block now.
  Place Now(const Holder& holder) const {
    const bool current = holder.generation == generations_[holder.replica].load(std::memory_order_relaxed);
    return current ? holder.place : Place::kNowhere;
  }
  // The holder of the entry that is the replica; null: it is none.
  static Holder* Find(Holders& holders, int32_t replica);
  // Takes out the holder, and the entry with its last one, if nothing is left of it.
  void Tidy(Part& part, const BlockId& id, Holders& holders, Holder* holder);
  // The holder of the block that is the replica, new if there was none.
  Holder& Ensure(Part& part, int32_t replica, const BlockId& id);

  const int32_t replicas_;
  std::array<Part, kParts> parts_;
  std::vector<std::atomic<uint8_t>> generations_;  // by replica
  std::atomic<int64_t> stale_{0};                  // places of former ones, or more: who came back is among them
  std::atomic<int64_t> swept_{0};
  std::atomic<int64_t> blocks_{0};  // entries of all parts, which nobody need lock to count
  std::vector<std::unique_ptr<Observer>> observers_;
};

}  // namespace interlace
