// KvPlacement: where the KV of a replica's requests lies, on device and host.
#pragma once

#include <limits>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "coordinator/block_directory.h"
#include "coordinator/kv_budget.h"
#include "coordinator/replica_shape.h"
#include "coordinator/sequence_state.h"
#include "proto/plan/step_plan.h"

namespace interlace {

// Sole writer of the directory, the budget and the KV fields of sequences. Each call takes effect at once in these, and
// on the ranks with the next plan, which carries the moves that the calls asked for (TakeMoves). Owned by the Scheduler
// while the replica is formed; thread: the replica's. It is pure: no time, no chance.
//
// What a sequence is charged: each sealed block with its places, once however many use it; for blocks that are reserved
// and not sealed, a slot in each kept layer and a frame in each streamed one, and two slots in each streamed
// layer for what has no name yet. A streamed layer's blocks pass through the ring of its plan.
class KvPlacement {
 public:
  struct Options {
    int32_t fixed_keep = -1;  // layers that every request keeps; -1: as many as fit
    int32_t chunk_tokens = 256;
  };
  // The observer may be null, else it outlives the placement.
  KvPlacement(ReplicaShape shape, const Options& options, KvObserver* observer = nullptr);

  // OK if a request of `tokens` can run alone; otherwise FailedPrecondition says that it can never run, and what to
  // raise.
  static absl::Status CheckCanRun(const ReplicaShape& shape, const Options& options, int32_t tokens);

  // How many of the sequence's whole blocks, from the first on and at most `most`, lie in every layer where a row after
  // them needs them. Those that `now` names do not count: no plan before it has sealed them.
  int32_t Match(const SequenceState& sequence, int32_t most, PlanId now) const;
  // Whether a block of the sequence is on its way from the tiers, for whichever request asked first.
  bool Arriving(const SequenceState& sequence, int32_t block) const {
    return AnyArriving() && EntryArrives(sequence, block);
  }
  bool AnyArriving() const { return directory_.arriving() > 0; }
  // Whether the block is there once the plan is executed, and not before.
  bool SealedBy(const SequenceState& sequence, int32_t block, PlanId plan) const;

  // ---- the life of a sequence
  // Gives a waiting sequence the first `adopted` blocks, room for `fetched` ones after them, which the moves fetch, and
  // room for the rest of its tokens, with as many layers kept as fit, `least` to `most` of them (none is a number too).
  // `spare` blocks must be left in every layer of every stage. False, and nothing has changed, if there is no room.
  struct StartRoom {
    int32_t least = 0;
    int32_t most = std::numeric_limits<int32_t>::max();
    int64_t spare = 0;
    int32_t slack_ms = 0;  // of the request, for what is fetched for it
  };
  bool Start(SequenceState& sequence, int32_t adopted, int32_t fetched, const StartRoom& limits);
  // Room for positions [0, end), given by the cache where nothing is free.
  bool Reserve(SequenceState& sequence, int32_t end) {
    const int64_t blocks = static_cast<int64_t>(sequence.blocks.size()) + sequence.reserved;
    const bool charged = shape_.windows.empty() || ChargedForWindows(sequence);
    return (end <= blocks * shape_.block_tokens && charged) || Grow(sequence, ReservedFor(sequence, end));
  }
  // Room in the plan's ring for what of the sequence streams while positions up to `end` are computed.
  bool Stream(const SequenceState& sequence, int32_t end, PlanId plan) {
    return sequence.kept == shape_.all || WidenRing(sequence, end, plan);
  }
  // Blocks that lie behind the windows of a row at `start` become cache in these layers.
  bool PassWindows(SequenceState& sequence, int32_t start) {
    return shape_.windows.empty() || LeaveBehind(sequence, start);
  }
  // A new plan is made: what the former frees when it is executed is free from now on.
  void BeginPlan();
  // Its first `count` blocks are sealed once `plan` is executed.
  void Seal(SequenceState& sequence, int32_t count, PlanId plan);
  // The sequence stops running; its sealed blocks are held, and leave the device only when room is wanted.
  void Park(SequenceState& sequence);
  // It uses and holds nothing any more.
  void Release(SequenceState& sequence);
  void EndPlan(PlanId plan);

  // ---- room
  // Room for positions [0, end) with whatever layers of it kept that takes, if `shift`; else with those that it keeps.
  bool Refit(SequenceState& sequence, int32_t end, bool shift);
  // Lowers the layers that running sequences keep, few at a time, the largest holder first, until the sequence could
  // Reserve [0, end). False if it still could not; nothing is lowered if that shows beforehand.
  bool LowerFor(const SequenceState& sequence, int32_t end, absl::Span<SequenceState* const> running);
  // Whether parking these would let the sequence Refit [0, end).
  bool ParkingHelps(const SequenceState& sequence, int32_t end, absl::Span<SequenceState* const> victims,
                    bool shift) const;
  // Raises what a running sequence keeps by as many layers as fit while `spare` blocks are left, moving at most
  // `most_extents`. True if it changed.
  bool Raise(SequenceState& sequence, int64_t spare, int64_t most_extents);
  // Whole blocks, all layers, that may be had on the device: what is free, and what is cache.
  int64_t FreeBlocks() const;
  // Whether the device alone could ever hold so many tokens of one request, in all layers.
  bool CouldBeWhole(int32_t tokens) const;
  const std::set<SequenceState*, SequenceBefore>& streaming() const { return streaming_; }

  // ---- faults and answers
  // The block's bytes are in doubt: it lies nowhere any more, but for layers in which it is on its way from the tiers.
  void Forget(BlockEntry& entry);
  // All that is cache is forgotten. Requires: nobody uses or holds a block.
  void ForgetCache();
  // `uneven`: of the layers that failed, those in which it has arrived on some ranks of a stage, which are to drop it.
  void OnFetched(const FetchAnswer& answer, const LayerSet& uneven = {});
  // Whether a block that the sequence uses is on its way from the tiers.
  bool Waits(const SequenceState& sequence) const;
  // Whether all blocks of a running sequence lie wherever it sees them.
  bool Whole(const SequenceState& sequence) const;

  std::vector<BlockMove> TakeMoves();
  // Sequences whose kept layers changed since the ranks heard of them; TakeKept takes one out.
  std::vector<SequenceState*> Changed() const { return {changed_.begin(), changed_.end()}; }
  LayerSet TakeKept(SequenceState& sequence);
  const ReplicaShape& shape() const { return shape_; }
  const KvBudget& budget() const { return budget_; }
  const BlockDirectory& directory() const { return directory_; }
  void CheckInvariants(absl::Span<SequenceState* const> sequences) const;

 private:
  KvAmounts TailCharge(const LayerSet& kept, int32_t reserved, absl::Span<const int32_t> live) const;
  KvAmounts TailCharge(const SequenceState& sequence, const LayerSet& kept, int32_t reserved) const;
  KvAmounts RingNeed(const LayerSet& kept, int64_t blocks) const;
  // Layers in which a row of the sequence sees the block.
  LayerSet Seen(const SequenceState& sequence, int32_t block) const { return shape_.Seen(sequence.seen_from, block); }
  LayerSet KeptByUsers(const BlockEntry& entry, const SequenceState* but) const;

  // The parts of the calls above that most steps of most sequences do without.
  bool EntryArrives(const SequenceState& sequence, int32_t block) const;
  bool WidenRing(const SequenceState& sequence, int32_t end, PlanId plan);
  bool LeaveBehind(SequenceState& sequence, int32_t start);

  // What is free and what is cache.
  KvAmounts Obtainable() const;
  // Takes `need`, out of the cache where nothing is free. False, and nothing has changed, if that is not enough.
  bool Obtain(const KvAmounts& need);
  void FreeSlots(const KvAmounts& need);
  void FreeFrames(const KvAmounts& need);
  // Makes room for frames of `layers` besides `need`, without touching `but`.
  bool FramesFor(const LayerSet& layers, const BlockEntry* but, const KvAmounts& need);
  void EvictFromDevice(BlockEntry& entry, const KvAmounts& need);
  void EvictFromHost(BlockEntry& entry);
  // What the ring must grow by, so that a sequence can stream `blocks` blocks.
  KvAmounts RingGrowth(const LayerSet& kept, int64_t blocks) const;
  struct Shift {
    LayerSet in, out;
  };
  Shift ShiftOf(const SequenceState& sequence, int32_t block, const LayerSet& kept) const;
  // What more the sequence takes in order to keep `kept` and to reserve `reserved` blocks; negative where it gives.
  KvAmounts CostOfKeeping(const SequenceState& sequence, const LayerSet& kept, int32_t reserved) const;
  // Does it; false, and nothing has changed, if there is no room.
  bool Keep(SequenceState& sequence, const LayerSet& kept, int32_t reserved);
  // The same where the layers stay as they are: the cost does not depend on how many blocks are sealed.
  bool Grow(SequenceState& sequence, int32_t reserved);
  // False where PassWindows has found no room for what the windows see next.
  bool ChargedForWindows(const SequenceState& sequence) const;
  int32_t ReservedFor(const SequenceState& sequence, int32_t end) const;
  // The layers to keep with which [0, end) fits into `room`: those that it keeps, else as many as possible.
  std::optional<LayerSet> FitIn(const KvAmounts& room, const SequenceState& sequence, int32_t end, bool shift) const;
  // One layer less, of those in `of`, or one more, so that what is kept stays spread evenly.
  LayerSet OneLess(const LayerSet& kept, const LayerSet& of) const;
  LayerSet OneMore(const LayerSet& kept) const;
  LayerSet LayersToLower(const SequenceState& sequence, size_t stage) const;

  // What more the block takes when it lies there instead.
  KvAmounts RoomToPlace(const BlockEntry& entry, const LayerSet& device, const LayerSet& host) const;
  void Place(BlockEntry& entry, const LayerSet& device, const LayerSet& host);  // charges or frees the difference
  void Move(const BlockEntry& entry, MoveKind kind, const LayerSet& layers, int32_t slack_ms = 0);
  void EraseIfGone(BlockEntry& entry);
  static void CountSealed(SequenceState& sequence);
  void SetKept(SequenceState& sequence, const LayerSet& kept);
  void FindFloor();
  void NoteFound(SequenceState& sequence) const;

  const ReplicaShape shape_;
  const Options options_;
  KvBudget budget_;
  BlockDirectory directory_;
  std::set<SequenceState*, SequenceBefore> streaming_;  // running sequences that do not keep all layers
  std::set<SequenceState*, SequenceBefore> changed_;
  std::map<PlanId, KvAmounts> rings_;  // of plans being made or in flight
  std::vector<BlockMove> moves_;
  KvAmounts late_;                    // charged until the next plan
  std::vector<BlockEntry*> sealing_;  // held until the next plan: those that the plan being made names
};

}  // namespace interlace
