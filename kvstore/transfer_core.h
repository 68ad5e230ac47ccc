// TransferCore: which block goes to or comes from which tier, and when. Pure: events in, actions out.
#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <tuple>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/transport.h"
#include "kvstore/block_id.h"
#include "kvstore/tier/tier.h"

namespace interlace {

struct TierStats {
  int64_t blocks_fetched = 0, bytes_fetched = 0;
  int64_t blocks_stored = 0, bytes_stored = 0;
  int64_t corrupt = 0;  // blocks whose key or checksum did not match when they came back
  int64_t missing = 0;  // fetches that no tier could answer, late ones included
  int64_t refused = 0;  // offers that were not taken, or that no tier took
};

enum class FetchId : uint64_t {};

// By when a fetch ends, and when whoever wants it is late: what is due first is read first.
struct FetchTimes {
  FetchTimes(absl::Time by) : deadline(by), due(by) {}  // NOLINT: a fetch whose request says nothing is due at its end
  FetchTimes(absl::Time by, absl::Time late_from) : deadline(by), due(late_from) {}
  absl::Time deadline, due;
};
enum class ProbeId : uint64_t {};
enum class TierCall : uint64_t {};  // one Put, Get or Probe of a tier

// What the driver does. Calls of tiers are answered by On*Answered with the same TierCall, exactly once.
struct TierPut {
  int tier;
  TierCall call;
  std::vector<StoredBlock> blocks;
};
struct TierGet {
  int tier;
  TierCall call;
  std::vector<BlockKey> keys;
};
struct TierProbe {
  int tier;
  TierCall call;
  std::vector<BlockKey> keys;
};
struct TierDrop {
  int tier;
  BlockKey key;
};
// Bytes for the frames of these fetches: copy, verify there, then answer with OnLanded.
struct Land {
  BlockKey key;
  std::vector<FetchId> fetches;
  SharedBytes bytes;
};
// Terminal, once for each fetch and each probe.
struct FetchEnded {
  FetchId fetch;
  absl::Status status;
};
struct ProbeEnded {
  ProbeId probe;
  int32_t blocks;
};
using TransferAction = std::variant<TierPut, TierGet, TierProbe, TierDrop, Land, FetchEnded, ProbeEnded>;
using TransferActions = std::vector<TransferAction>;

// One thread at a time; owned by the TierStack's worker, or by a simulation. Time comes with the events and never runs
// backwards.
//
// Fetches of one block share a read. A read asks the tiers in order, from the next one where a tier does not hold the
// block or gave damaged bytes; in each tier, blocks are read as they are due. An offer goes to every tier that wants
// it, and a block that is still on its way there is fetched from here. A tier that answered Unavailable is passed over
// until `retry_after` has gone by.
class TransferCore {
 public:
  struct Options {
    int tiers = 0;
    int64_t payload_bytes = 0;
    int64_t queue_bytes = int64_t{64} << 20;  // of offers that are not stored yet
    absl::Duration retry_after = absl::Seconds(1);
    int most_calls = 4;                     // Gets under way in one tier, and Puts
    int most_blocks = 64;                   // in one call
    int64_t call_bytes = int64_t{1} << 20;  // of one call, unless one block has more
  };
  explicit TransferCore(const Options& options);

  // False: refused. `tiers`: those that want blocks now, one bit each.
  bool Offer(StoredBlock block, uint32_t tiers, absl::Time now, TransferActions* actions);
  void Fetch(FetchId fetch, const BlockKey& key, const FetchTimes& times, absl::Time now, TransferActions* actions);
  // `keys` holds `layers` keys for each block, block by block.
  void Probe(ProbeId probe, std::vector<BlockKey> keys, int32_t layers, absl::Time now, TransferActions* actions);

  void OnPutAnswered(TierCall call, const std::vector<absl::Status>& statuses, absl::Time now,
                     TransferActions* actions);
  void OnGetAnswered(TierCall call, std::vector<absl::StatusOr<SharedBytes>> answers, absl::Time now,
                     TransferActions* actions);
  void OnProbeAnswered(TierCall call, const std::vector<bool>& held, absl::Time now, TransferActions* actions);
  // Of the last Land of the key: OK, or DataLoss.
  void OnLanded(const BlockKey& key, const absl::Status& status, absl::Time now, TransferActions* actions);
  // Ends fetches whose deadline has come.
  void OnTime(absl::Time now, TransferActions* actions);
  // Nobody wants the fetches any more: they end as Cancelled, those whose frames are being filled as soon as they are.
  void CancelFetches(absl::Time now, TransferActions* actions);
  // Everything ends: fetches as Cancelled, probes with 0 blocks, offers silently. Later answers change nothing.
  void Stop(TransferActions* actions);

  absl::Time NextDeadline() const;  // InfiniteFuture: no fetch is open
  bool IsAway(int tier, absl::Time now) const { return now < tiers_[tier].away_until; }
  int64_t offered_bytes() const { return offered_bytes_; }
  const TierStats& stats() const { return stats_; }

 private:
  struct Read;
  // A block is read in one tier after another; `place` says where it is now.
  enum class Place { kQueued, kAsked, kLanding };
  struct Waiter {
    FetchId fetch;
    absl::Time deadline, due;
  };
  struct Read {
    Place place = Place::kQueued;
    int tier = 0;          // tiers_.size(): from an offer
    uint64_t order = 0;    // first come, first served, where equals are due
    absl::Time queued_by;  // its rank in the queue
    std::vector<Waiter> waiters;
    std::vector<Waiter> landing;  // those whose frames are being filled
    SharedBytes bytes;            // while landing
    bool damaged = false;         // some tier gave damaged bytes
  };
  struct Offered {
    SharedBytes bytes;
    int left = 0;  // tiers that have not answered
    bool stored = false;
  };
  struct QueuedRead {
    absl::Time due;
    uint64_t order;
    BlockKey key;
    friend bool operator<(const QueuedRead& a, const QueuedRead& b) {
      return std::tie(a.due, a.order) < std::tie(b.due, b.order);
    }
  };
  struct Tier {
    absl::Time away_until = absl::InfinitePast();
    std::set<QueuedRead> reads;
    std::deque<StoredBlock> puts;
    int gets_under_way = 0;
    int puts_under_way = 0;
  };
  struct ProbeState {
    ProbeId probe;
    std::vector<BlockKey> keys;
    std::vector<bool> held;
    std::vector<size_t> asked;  // indices of the keys that the tier was asked for
    int32_t layers = 1;
    int tier = 0;
  };
  struct CallState {
    int tier;
    std::vector<BlockKey> keys;
  };

  using Reads = absl::flat_hash_map<BlockKey, Read>;
  // Asks `read.tier`, or the first one after it that is not away; ends the read if there is none.
  void Advance(const BlockKey& key, absl::Time now, TransferActions* actions);
  void Queue(const BlockKey& key, Read& read);
  void Unqueue(const BlockKey& key, const Read& read);
  void StartLanding(const BlockKey& key, Read& read, TransferActions* actions);
  void EndRead(const BlockKey& key, const absl::Status& status, TransferActions* actions);
  void EndFetch(const Waiter& waiter, const absl::Status& status, TransferActions* actions);
  void Pump(int tier, TransferActions* actions);
  void SettleOffer(const BlockKey& key, bool stored);
  void MarkAway(int tier, absl::Time now, TransferActions* actions);
  void AdvanceProbe(ProbeState probe, absl::Time now, TransferActions* actions);
  TierCall NewCall() { return TierCall{++last_call_}; }

  const Options options_;
  std::vector<Tier> tiers_;
  Reads reads_;
  std::set<std::tuple<absl::Time, uint64_t>> deadlines_;  // of open fetches, with their ids
  absl::flat_hash_map<uint64_t, BlockKey> fetch_keys_;    // of open fetches
  absl::flat_hash_map<BlockKey, Offered> offered_;
  int64_t offered_bytes_ = 0;
  absl::flat_hash_map<TierCall, CallState> puts_, gets_;
  absl::flat_hash_map<TierCall, ProbeState> probes_;
  uint64_t last_call_ = 0;
  uint64_t last_order_ = 0;
  TierStats stats_;
};

}  // namespace interlace
