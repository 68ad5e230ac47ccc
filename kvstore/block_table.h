// BlockTable: which tier holds which block, and which writes of it are pending.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvstore/block_key.h"
#include "kvstore/transfer_queue.h"

namespace interlace {

// A pure structure owned by the TransferEngine, under its lock. Writes of one block are done one after another, in the
// order in which they came. A generation that is dropped while writes of it are pending stays known, as dropped, until
// the last of them ended; only then may the tiers forget it.
// The trap: a write that Begin took needs exactly one End.
class BlockTable {
 public:
  enum class Begun { kGo, kBehindAnother, kDropped };
  Begun BeginWrite(const BlockKey& key, MoveRef write);

  struct Ended {
    std::optional<MoveRef> next;    // the write of the same block that may go now
    bool readers_wait = false;      // for that next write
    std::vector<MoveRef> released;  // reads that waited; they may go now
    bool last_of_dropped = false;   // the caller drops the generation in the tiers, then calls Dropped
  };
  // tier: who took the block; empty if none did, which leaves the block where it was.
  Ended EndWrite(const BlockKey& key, std::optional<int16_t> tier);

  // The write that a read of this block must wait for; the read is remembered until it ended. Empty: no need to wait.
  std::optional<MoveRef> WaitForWrite(const BlockKey& key, MoveRef read);
  // The tier that holds the block.
  std::optional<int16_t> TierOf(const BlockKey& key) const;
  void Forget(const BlockKey& key);

  // True: no write is pending, so the caller drops the generation in the tiers, then calls Dropped.
  bool Drop(Generation generation);
  void Dropped(Generation generation) { generations_.erase(generation); }
  bool IsDropped(Generation generation) const;

  // Blocks in the same tier that a careless store could confuse with this one; for fault injection. They search.
  std::optional<BlockKey> OtherLayer(const BlockKey& key) const;
  std::optional<BlockKey> OtherRequest(const BlockKey& key) const;

 private:
  struct Record {
    std::optional<int16_t> tier;
    std::deque<MoveRef> writes;    // the first is queued or in flight
    std::vector<MoveRef> readers;  // wait until writes is empty
  };
  struct GenerationBlocks {
    absl::flat_hash_map<BlockKey, Record> records;
    int64_t writes = 0;  // pending
    bool dropped = false;
  };
  const Record* Find(const BlockKey& key) const;

  absl::flat_hash_map<Generation, GenerationBlocks> generations_;
};

}  // namespace interlace
