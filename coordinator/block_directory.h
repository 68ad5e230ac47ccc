// BlockDirectory: where the sealed blocks of a replica lie, as of the last plan that was made.
#pragma once

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "coordinator/kv_observer.h"
#include "coordinator/replica_shape.h"
#include "kvstore/block_id.h"
#include "kvstore/layer_set.h"

namespace interlace {

struct SequenceState;

// One sealed block. Running sequences are its users; parked requests hold it. In a layer that no user sees (it has no
// user, or lies behind their windows) it is idle: a cache, whose room may be taken.
struct BlockEntry {
  BlockId id;
  int32_t index = 0;   // of the block in each sequence that has it
  LayerSet device;     // layers in which a slot holds it
  LayerSet host;       // layers in which a frame holds it
  LayerSet arriving;   // layers in which it is being fetched; part of device | host
  int32_t holds = 0;   // parked requests that count on it: it may leave the device, but not be forgotten
  PlanId sealed_in{};  // the plan that named it; 0: fetched
  bool own = false;    // of one request, whose steps passed sublayers over: nobody else is told of it
  absl::InlinedVector<SequenceState*, 1> users;

  LayerSet placed() const { return device | host; }

 private:
  friend class BlockDirectory;
  LayerSet idle;                 // layers that no user sees
  std::optional<KvMedium> told;  // where the observer knows it to lie
  struct Listing {
    std::list<BlockEntry*>* list = nullptr;  // of the directory's; null: in none
    std::list<BlockEntry*>::iterator at;
  };
  Listing on_device, on_host;
};

// Entries live until Erase; a pointer stays valid that long. Owned by KvPlacement; thread: the replica's.
class BlockDirectory {
 public:
  // The observer may be null: nobody is told; else it outlives the directory.
  explicit BlockDirectory(const ReplicaShape& shape, KvObserver* observer = nullptr)
      : shape_(shape), observer_(observer), idle_room_(shape.stages.size()), by_layer_(shape.layers) {}

  BlockEntry* Find(const BlockId& id) const {
    const Entries& entries = entries_[id.low % kParts];
    auto it = entries.find(id);
    return it == entries.end() ? nullptr : it->second.get();
  }
  // The id is about to be looked up: its part of the table, which is large, is asked of memory.
  void Prefetch(const BlockId& id) const { entries_[id.low % kParts].prefetch(id); }
  // The entry of the sequence's block, new and placed nowhere if there was none.
  BlockEntry& Ensure(const SequenceState& sequence, int32_t block);
  void AddUser(BlockEntry& entry, SequenceState* user);
  // A block that its last user leaves becomes the last to be evicted.
  void RemoveUser(BlockEntry& entry, SequenceState* user);
  // A user seals the block: it lies there from now on.
  void Seal(BlockEntry& entry, SequenceState* user, const LayerSet& device, const LayerSet& host);
  void SetHolds(BlockEntry& entry, int32_t holds);
  // Where the block lies from now on; its room was charged by the caller.
  void SetPlaces(BlockEntry& entry, const LayerSet& device, const LayerSet& host);
  void SetArriving(BlockEntry& entry, const LayerSet& arriving);
  // A user moved on: layers whose window it left may have become idle.
  void FindIdle(BlockEntry& entry);
  // Requires: no user, no hold, no place.
  void Erase(BlockEntry& entry);

  // Entries with idle layers on the device, and those with layers on the host that nobody needs there; the first is to
  // be evicted first. What parked requests hold comes after all that nobody counts on.
  const std::list<BlockEntry*>& idle_on_device() const { return idle_on_device_; }
  const std::list<BlockEntry*>& held_on_device() const { return held_on_device_; }
  const std::list<BlockEntry*>& idle_on_host() const { return idle_on_host_; }
  // What is on its way stays until it has arrived: its answer must not be taken for that of a later fetch.
  LayerSet EvictableDevice(const BlockEntry& entry) const { return entry.device & (entry.idle - entry.arriving); }
  // A frame beside a slot may go too, whoever uses the block.
  LayerSet EvictableHost(const BlockEntry& entry) const {
    return entry.holds > 0 ? LayerSet() : entry.host & ((entry.idle | entry.device) - entry.arriving);
  }
  // The room of all of these.
  const KvAmounts& idle_room() const { return idle_room_; }
  struct LayerBlocks {
    int64_t device = 0, host = 0;
    friend bool operator==(const LayerBlocks&, const LayerBlocks&) = default;
  };
  // How many entries lie on the device, and on the host, in each layer.
  const std::vector<LayerBlocks>& by_layer() const { return by_layer_; }
  // How many entries are on their way in some layer.
  int64_t arriving() const { return arriving_; }
  size_t size() const { return size_; }
  template <typename Body>
  void ForEach(Body body) const {
    for (const Entries& entries : entries_) {
      for (const auto& [id, entry] : entries) body(*entry);
    }
  }

 private:
  // Changes an entry between taking it off the account of idle room and putting it back.
  template <typename Change>
  void Update(BlockEntry& entry, Change change);
  void Count(const LayerSet& device, const LayerSet& host, int sign);
  void Lie(BlockEntry& entry, const LayerSet& device, const LayerSet& host);
  // What the observer does not know yet of where the block lies.
  void Tell(BlockEntry& entry);
  static void Enlist(BlockEntry& entry, BlockEntry::Listing* listing, std::list<BlockEntry*>* list);
  LayerSet IdleLayers(const BlockEntry& entry) const;

  const ReplicaShape& shape_;
  KvObserver* const observer_;
  // By a part of the id, which is a digest and as good as random. A table that grows moves all it holds at once: a
  // quarter of a million entries would make a step wait for 4 ms. Small parts do not grow in the same steps.
  struct PartOfId {
    size_t operator()(const BlockId& id) const { return id.high; }
  };
  using Entries = absl::flat_hash_map<BlockId, std::unique_ptr<BlockEntry>, PartOfId>;
  static constexpr size_t kParts = 1024;
  std::array<Entries, kParts> entries_;
  size_t size_ = 0;
  std::list<BlockEntry*> idle_on_device_, held_on_device_, idle_on_host_;
  KvAmounts idle_room_;
  std::vector<LayerBlocks> by_layer_;
  int64_t arriving_ = 0;
};

}  // namespace interlace
