// SimTier and SimTierStack: what lies below the host of a simulated rank.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "kvstore/tier/block_index.h"
#include "kvstore/transfer_core.h"
#include "tests/sim/chance.h"
#include "tests/sim/event_loop.h"
#include "tests/sim/scenario.h"

namespace interlace::sim {

// A cache of stored blocks that outlives the processes that use it: the folder of one rank, or a store that all share.
// The real BlockIndex decides what it evicts. It answers after a drawn time. Owned by the simulation.
class SimTier {
 public:
  SimTier(EventLoop& loop, std::unique_ptr<Entropy> entropy, int64_t capacity_bytes, absl::Duration most_latency,
          Canary canary)
      : loop_(loop),
        entropy_(std::move(entropy)),
        index_(capacity_bytes),
        most_latency_(most_latency),
        canary_(canary) {}

  void Put(std::vector<StoredBlock> blocks, absl::AnyInvocable<void(std::vector<absl::Status>)> done);
  void Get(std::vector<BlockKey> keys, absl::AnyInvocable<void(std::vector<absl::StatusOr<SharedBytes>>)> done);
  void Probe(std::vector<BlockKey> keys, absl::AnyInvocable<void(std::vector<bool>)> done);
  void Drop(const BlockKey& key);
  bool Wants() const { return loop_.now() >= away_until_; }

  // ---- faults
  void GoAway(absl::Time until) { away_until_ = std::max(away_until_, until); }
  void AnswerLate(absl::Time until, absl::Duration by) {
    late_until_ = std::max(late_until_, until);
    late_by_ = by;
  }
  void TearWrites(absl::Time until) { torn_until_ = std::max(torn_until_, until); }
  void FlipOne(Entropy& entropy);
  void Forget(Entropy& entropy, int32_t percent);
  // What was written last may not be there any more.
  void LoseLastWrites(int32_t blocks);

 private:
  absl::Duration Latency();
  void Erase(const BlockKey& key);

  EventLoop& loop_;
  const std::unique_ptr<Entropy> entropy_;
  BlockIndex index_;
  const absl::Duration most_latency_;
  const Canary canary_;
  std::map<BlockKey, SharedBytes> bytes_;  // exactly what index_ holds
  std::vector<BlockKey> last_written_;
  absl::Time away_until_ = absl::InfinitePast(), late_until_ = absl::InfinitePast(), torn_until_ = absl::InfinitePast();
  absl::Duration late_by_;
};

// The real TransferCore, driven by the event loop as TierStack drives it by a thread. Owned by a simulated process: it
// dies with it, and what tiers answer then reaches nobody.
class SimTierStack {
 public:
  using FetchDone = absl::AnyInvocable<void(absl::Status, SharedBytes)>;
  using ProbeDone = absl::AnyInvocable<void(int32_t)>;
  SimTierStack(EventLoop& loop, std::vector<SimTier*> tiers, int64_t payload_bytes, int32_t layer_begin,
               int32_t layer_end, HeadRange heads, Canary canary);
  ~SimTierStack();

  bool empty() const { return tiers_.empty(); }
  bool Wants() const;
  void Offer(const BlockKey& key, int32_t index, SharedBytes stored);
  // `done` gets the verified stored form with OK.
  void Fetch(const BlockKey& key, const FetchTimes& times, FetchDone done);
  void CancelFetches();
  void Probe(const std::vector<BlockId>& blocks, ProbeDone done);
  const TierStats& stats() const { return core_.stats(); }
  // The stack's own answers come at once unless its process stands still until then.
  void StopUntil(absl::Time when) { stopped_until_ = when; }

 private:
  void Perform(TransferActions actions);
  void Do(TierPut& put);
  void Do(TierGet& get);
  void Do(TierProbe& probe);
  void Do(TierDrop& drop) { tiers_[drop.tier]->Drop(drop.key); }
  void Do(Land& land);
  void Do(FetchEnded& ended);
  void Do(ProbeEnded& ended);
  // Runs body(now, &actions) on the core unless the process is gone, later if it stands still.
  void Answer(std::function<void(TransferActions*)> body);
  void AwaitDeadline();

  struct OpenFetch {
    FetchDone done;
    SharedBytes bytes;
  };
  EventLoop& loop_;
  const std::vector<SimTier*> tiers_;
  const int64_t payload_bytes_;
  const int32_t layer_begin_, layer_end_;
  const HeadRange heads_;
  const Canary canary_;
  TransferCore core_;
  std::map<FetchId, OpenFetch> fetches_;
  std::map<ProbeId, ProbeDone> probes_;
  uint64_t last_id_ = 0;
  absl::Time stopped_until_ = absl::InfinitePast();
  absl::Time awaited_ = absl::InfiniteFuture();  // the deadline for which an event is under way
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace interlace::sim
