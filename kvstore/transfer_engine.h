// TransferEngine: moves blocks between device slots and the tiers, by ticket, ordered by deadline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/clock.h"
#include "common/fault.h"
#include "kvstore/block_key.h"
#include "kvstore/tier/tier.h"

namespace interlace {

struct KvRead {
  BlockKey key;
  std::byte* to = nullptr;  // payload_bytes of device memory
};
struct KvWrite {
  BlockKey key;
  const std::byte* from = nullptr;
};

// What became of one move.
struct MoveResult {
  absl::Status status;  // OK; NotFound, DataLoss, Unavailable, DeadlineExceeded, ResourceExhausted
  int16_t tier = -1;    // index into tiers(), when OK
};

// A group of moves under way. Move-only; thread: runner. Memory named by its moves belongs to the ticket until done or
// abandoned; bytes land in buffers of the engine first, so after Wait gave up nothing touches that memory any more.
// The trap: destroying a ticket that is not done abandons it: reads are never delivered; writes complete if their bytes
// were taken already and do not happen otherwise.
class TransferTicket {
 public:
  TransferTicket() = default;
  TransferTicket(TransferTicket&&) noexcept;
  TransferTicket& operator=(TransferTicket&&) noexcept;
  ~TransferTicket();
  explicit operator bool() const { return state_ != nullptr; }
  bool done() const;
  // Waits until done or the deadline; moves that are not done by then are DeadlineExceeded and abandoned.
  // One result for each move, in order.
  std::vector<MoveResult> Wait(absl::Time deadline);

  struct State;  // shared with the engine

 private:
  friend class TransferEngine;
  explicit TransferTicket(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

struct TransferStats {
  int64_t blocks_in = 0, bytes_in = 0;  // towards the device
  int64_t blocks_out = 0, bytes_out = 0;
  absl::Duration busy_in, busy_out;  // wall time during which at least one read (write) was under way
  int64_t corrupt = 0;               // blocks whose key or checksum did not match
  int64_t missing = 0;               // blocks that no tier could give back, Unavailable and late ones included
  int64_t refused = 0;               // writes that no tier took
};

// Owned by the worker's composition root, the tiers by it. Thread-safe; one mover thread encodes, verifies and copies.
//
// Order: reads before writes, earlier deadline first, then first come; except that a read of a block whose write is
// pending waits for it (the write is brought forward). Groups are cut into chunks of chunk_bytes, so that an urgent
// group passes between the chunks of a long one. A write goes to the first tier that takes it (full or away: the next
// one); a read goes to the tier that took the block. A tier that answered Unavailable is skipped by writes for
// retry_after.
class TransferEngine {
 public:
  struct Options {
    int64_t payload_bytes = 0;  // of every block
    int64_t chunk_bytes = 1 << 20;
    int32_t chunks_in_flight = 4;  // reads of one tier; writes
    absl::Duration retry_after = absl::Seconds(1);
  };
  TransferEngine(const Options& options, std::vector<std::unique_ptr<KvTier>> tiers, Clock& clock, FaultPoints& faults);
  ~TransferEngine();  // waits for moves in flight

  TransferTicket Read(std::vector<KvRead> reads, absl::Time deadline);
  // The memory may be reused once the ticket is done; a move that failed left the block where it was.
  TransferTicket Write(std::vector<KvWrite> writes, absl::Time deadline);
  // Forgets every block of the generation in every tier, writes in flight included (they are dropped when they land).
  void Drop(Generation generation);
  // True iff some tier took the block and was not seen to lose it.
  bool Holds(const BlockKey& key) const;

  std::vector<std::string> tiers() const;
  std::vector<TierUsage> Usage();
  TransferStats Stats() const;  // totals since start

 private:
  class Mover;
  std::unique_ptr<Mover> mover_;
};

}  // namespace interlace
