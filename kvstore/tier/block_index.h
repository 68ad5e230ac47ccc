// BlockIndex: which blocks a bounded tier holds, and which one it gives up for the next.
#pragma once

#include <cstdint>
#include <set>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvstore/block_id.h"

namespace interlace {

// A pure structure, O(log blocks) a call. Owned by one tier, under its lock.
//
// A block is worth  uses x cost / size:  how often it was stored or read, what computing it again costs (1 +
// index/1024: the attention of block 1024 over all before it costs about as much as everything else), and its bytes
// relative to the mean block. Greedy-Dual-Size-Frequency (Cherkasova 1998) adds age: a block that is stored or read
// gets the priority `clock + worth`, and the clock rises to the priority of each block that is evicted, so that a block
// nobody reads is overtaken in the end however much it was used once.
//
// A tier whose blocks outlive its process keeps what they have earned with them (TakeUnkept, Restore), since without it
// each process would begin with a clock of 0 and all blocks alike: small old ones would count as new for ever and push
// out large new ones.
//
// A block serves nobody once a block before it in its sequence is gone. So priorities count in steps of 1/8, and of
// those that are equal the block with the largest index goes first: a sequence loses its tail before its head.
class BlockIndex {
 public:
  explicit BlockIndex(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  enum class Added { kNew, kHeld, kTooLarge };
  // Makes room by evicting, then holds the block. kHeld: it was held before, and counts as used once more. kTooLarge:
  // it would not fit into an empty tier; nothing changes.
  Added Add(const BlockKey& key, int32_t index, int64_t bytes, std::vector<BlockKey>* evicted);
  // Counts a use; false iff the block is not held.
  bool Use(const BlockKey& key);
  bool Holds(const BlockKey& key) const { return entries_.contains(key); }
  // False iff the block was not held.
  bool Remove(const BlockKey& key);
  // What a block has earned: how often it was used, and what the clock was at its last use. uses = 0: that is not
  // known.
  struct Earned {
    int32_t uses = 0;
    double clock = 0;
  };
  struct Block {
    BlockKey key;
    int32_t index = 0;
    int64_t bytes = 0;
    Earned earned;
  };
  // Into an empty index: blocks that a former process held. Its clock goes on where the last use among them left it,
  // and those of which nothing is known count as stored now. Evicts what is too much.
  void Restore(std::vector<Block> blocks, std::vector<BlockKey>* evicted);
  // Blocks that have earned something since Restore or the last call.
  std::vector<Block> TakeUnkept();
  // uses = 0: the block is not held.
  Earned EarnedBy(const BlockKey& key) const;
  // Evicts what is too much.
  void SetCapacity(int64_t capacity_bytes, std::vector<BlockKey>* evicted);

  int64_t blocks() const { return static_cast<int64_t>(entries_.size()); }
  int64_t bytes() const { return bytes_; }
  int64_t capacity_bytes() const { return capacity_bytes_; }

 private:
  struct Entry {
    int64_t bytes = 0;
    int32_t index = 0;
    int32_t uses = 0;
    double clock = 0;  // at its last use
    double priority = 0;
    uint64_t order = 0;  // of its last use
    bool unkept = false;
  };
  struct Rank {
    int64_t step;  // of the priority
    int32_t index;
    uint64_t order;
    BlockKey key;
    friend bool operator<(const Rank& a, const Rank& b) {
      return std::tie(a.step, b.index, a.order) < std::tie(b.step, a.index, b.order);
    }
  };
  static Rank RankOf(const BlockKey& key, const Entry& entry);
  void Rate(const BlockKey& key, Entry& entry);
  // By its uses, and the clock of the last one.
  void Place(const BlockKey& key, Entry& entry);
  void EvictDownTo(int64_t bytes, std::vector<BlockKey>* evicted);

  int64_t capacity_bytes_;
  int64_t bytes_ = 0;
  double clock_ = 0;
  uint64_t last_order_ = 0;
  absl::flat_hash_map<BlockKey, Entry> entries_;
  std::set<Rank> ranks_;  // least worth first
};

}  // namespace interlace
