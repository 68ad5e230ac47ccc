// The moving half of TransferEngine. Internal to it.
#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/executor.h"
#include "common/thread.h"
#include "kvstore/block_table.h"
#include "kvstore/transfer_engine.h"
#include "kvstore/transfer_queue.h"
#include "kvstore/transfer_ticket.h"

namespace interlace {

// Wall time during which something is under way.
class BusyTime {
 public:
  void Begin(absl::Time now, int64_t count) {
    if (under_way_ == 0) since_ = now;
    under_way_ += count;
  }
  void End(absl::Time now) {
    if (--under_way_ == 0) total_ += now - since_;
  }
  absl::Duration Total(absl::Time now) const { return under_way_ > 0 ? total_ + (now - since_) : total_; }

 private:
  int64_t under_way_ = 0;
  absl::Time since_;
  absl::Duration total_;
};

// Three kinds of threads meet here: callers (the runner), tiers that answer, and the mover. They share what mutex_
// protects; a ticket's lock is never taken under it. Statistics and drops come before a ticket is settled, so whoever
// waited for the ticket sees them.
class TransferEngine::Mover {
 public:
  Mover(const Options& options, std::vector<std::unique_ptr<KvTier>> tiers, Clock& clock, FaultPoints& faults)
      : options_(options),
        chunk_moves_(static_cast<int32_t>(std::max<int64_t>(1, options.chunk_bytes / options.payload_bytes))),
        clock_(clock),
        faults_(faults),
        queue_(1 + static_cast<int>(tiers.size())),
        in_flight_(1 + tiers.size()),
        away_until_(tiers.size(), absl::InfinitePast()),
        tiers_(std::move(tiers)),
        thread_("kv-mover", [this] { Run(); }) {}

  ~Mover() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    thread_.Join();
  }

  TransferTicket Submit(std::vector<BlockKey> keys, std::vector<std::byte*> to, std::vector<const std::byte*> from,
                        absl::Time deadline);
  void Drop(Generation generation);
  bool Holds(const BlockKey& key) const {
    absl::MutexLock lock(&mutex_);
    return table_.TierOf(key).has_value();
  }
  TransferStats Stats() const;
  const std::vector<std::unique_ptr<KvTier>>& tiers() const { return tiers_; }

 private:
  using State = TransferTicket::State;
  struct Group {
    std::shared_ptr<State> state;
    int32_t open = 0;  // moves that the engine has not finished
  };
  struct Settlement {
    std::shared_ptr<State> state;
    int32_t index;
    MoveResult result;
  };
  struct ReadAnswer {
    int16_t tier;
    std::vector<MoveRef> moves;  // of one group
    std::vector<absl::StatusOr<SharedBytes>> answers;
  };
  // A write whose bytes were taken.
  struct Encoded {
    MoveRef move;
    SharedBytes bytes;
    absl::Status refusal;  // of the first tier that refused it
  };
  struct WriteAnswer {
    int16_t tier;
    std::vector<Encoded> writes;  // of one group
    std::vector<absl::Status> statuses;
  };

  // The mover's loop.
  void Run();
  // What to do next; waits for it. Empty when there never will be anything more.
  Task Next();
  void OnChunk(TransferQueue::Chunk chunk);
  void OnRead(ReadAnswer answer);
  void OnWrite(WriteAnswer answer);
  void Issue(int16_t tier, std::vector<MoveRef> reads);
  void TakeBytes(std::vector<MoveRef> writes);
  void Offer(std::vector<Encoded> writes, int16_t tier);
  absl::Status Deliver(State& state, int32_t index, absl::StatusOr<SharedBytes> answer);
  // The moves' ends: statistics, what waited for them, drops, then tickets.
  void EndReads(const std::vector<MoveRef>& moves, const std::vector<MoveResult>& results, int lane);
  void EndWrites(const std::vector<MoveRef>& moves, const std::vector<MoveResult>& results);

  std::shared_ptr<State> StateOf(uint64_t group) const {
    absl::MutexLock lock(&mutex_);
    return groups_.at(group).state;
  }
  void AdmitRead(MoveRef move, absl::Time now, std::vector<Settlement>* settled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AdmitWrite(MoveRef move, absl::Time now, std::vector<Settlement>* settled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountRead(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountWrite(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The engine is done with the move; its ticket is settled by what is added to `settled`.
  void Finish(MoveRef move, MoveResult result, absl::Time now, std::vector<Settlement>* settled)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Settle(std::vector<Settlement> settled);
  void DropInTiers(Generation generation);
  void Post(Task answer) {
    absl::MutexLock lock(&mutex_);
    answers_.push_back(std::move(answer));
  }
  bool LaneOpen(int lane) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return in_flight_[lane] < int64_t{options_.chunks_in_flight} * chunk_moves_;
  }
  bool HasChunk() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return queue_.HasWork([this](int lane) ABSL_NO_THREAD_SAFETY_ANALYSIS { return LaneOpen(lane); });
  }
  bool Over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ && groups_.empty(); }
  bool Awake() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !answers_.empty() || HasChunk() || Over(); }

  const Options options_;
  const int32_t chunk_moves_;
  Clock& clock_;
  FaultPoints& faults_;
  const std::shared_ptr<std::atomic<int64_t>> late_reads_ = std::make_shared<std::atomic<int64_t>>(0);

  mutable absl::Mutex mutex_;
  uint64_t last_group_ = 0;                      // protected by mutex_
  absl::flat_hash_map<uint64_t, Group> groups_;  // unfinished; protected by mutex_
  TransferQueue queue_;                          // protected by mutex_
  BlockTable table_;                             // protected by mutex_
  std::deque<Task> answers_;                     // of tiers; protected by mutex_
  std::vector<int64_t> in_flight_;               // moves taken and not ended, by lane; protected by mutex_
  TransferStats stats_;                          // without busy times and late reads; protected by mutex_
  BusyTime busy_in_, busy_out_;                  // protected by mutex_
  bool stopping_ = false;                        // protected by mutex_

  std::vector<absl::Time> away_until_;  // by tier; thread: mover
  const std::vector<std::unique_ptr<KvTier>> tiers_;
  Thread thread_;
};

}  // namespace interlace
