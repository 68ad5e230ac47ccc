// What a ticket and the engine share. Internal to the transfer engine.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "kvstore/transfer_engine.h"

namespace interlace {

// The moves of one group and what became of them. Memory named by the moves is touched only inside WhileOpen, so that
// after Abandon nothing touches it. Thread-safe.
struct TransferTicket::State {
  // late_reads: the engine's count of reads that were given up on.
  State(std::vector<BlockKey> keys, std::vector<std::byte*> to, std::vector<const std::byte*> from, absl::Time deadline,
        Clock& clock, std::shared_ptr<std::atomic<int64_t>> late_reads);

  bool IsRead() const { return !to.empty(); }
  bool Open(int32_t index) const ABSL_LOCKS_EXCLUDED(mutex);
  // Runs `body` with the lock held iff the move is open; false if it is not.
  bool WhileOpen(int32_t index, absl::FunctionRef<void()> body) ABSL_LOCKS_EXCLUDED(mutex);
  // First word counts: a move that is settled stays as it is.
  void Settle(int32_t index, MoveResult result) ABSL_LOCKS_EXCLUDED(mutex);
  // Settles what is open with `status`.
  void Abandon(const absl::Status& status, bool late) ABSL_LOCKS_EXCLUDED(mutex);
  bool Done() const ABSL_LOCKS_EXCLUDED(mutex);
  bool AllSettled() const { return open == 0; }

  const std::vector<BlockKey> keys;
  const std::vector<std::byte*> to;          // of reads; else empty
  const std::vector<const std::byte*> from;  // of writes; else empty
  const absl::Time deadline;                 // orders the group
  Clock& clock;
  const std::shared_ptr<std::atomic<int64_t>> late_reads;

  mutable absl::Mutex mutex;
  std::vector<MoveResult> results;  // protected by mutex
  std::vector<bool> settled;        // protected by mutex
  size_t open;                      // moves that are not settled; protected by mutex
};

}  // namespace interlace
