// KvPlacement: room, made by evicting what is cache and by lowering what running sequences keep.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "common/check.h"
#include "coordinator/kv_placement.h"

namespace interlace {
namespace {

bool FramesCover(const KvAmounts& room, const KvAmounts& need) {
  for (size_t s = 0; s < need.size(); ++s) {
    if (need[s].frames > room[s].frames) return false;
  }
  return true;
}

bool SlotsCover(const KvAmounts& room, const KvAmounts& need) {
  for (size_t s = 0; s < need.size(); ++s) {
    if (need[s].slots > room[s].slots) return false;
  }
  return true;
}

KvAmounts Sum(KvAmounts a, const KvAmounts& b) {
  AddTo(&a, b);
  return a;
}

}  // namespace

// ---- the cache gives way

KvAmounts KvPlacement::Obtainable() const { return Sum(budget_.Free(), directory_.idle_room()); }

bool KvPlacement::Obtain(const KvAmounts& need) {
  if (budget_.Try(need)) return true;
  if (!Covers(Obtainable(), need)) return false;
  FreeSlots(need);
  FreeFrames(need);
  return budget_.Try(need);
}

void KvPlacement::FreeSlots(const KvAmounts& need) {
  while (!SlotsCover(budget_.Free(), need) && !directory_.idle_on_device().empty()) {
    EvictFromDevice(*directory_.idle_on_device().front(), need);
  }
}

void KvPlacement::FreeFrames(const KvAmounts& need) {
  while (!FramesCover(budget_.Free(), need) && !directory_.idle_on_host().empty()) {
    EvictFromHost(*directory_.idle_on_host().front());
  }
}

bool KvPlacement::FramesFor(const LayerSet& layers, const BlockEntry* but, const KvAmounts& need) {
  const KvAmounts wanted = Sum(shape_.Frames(1, layers), need);
  if (!FramesCover(Obtainable(), wanted)) return false;
  while (!FramesCover(budget_.Free(), wanted)) {
    const std::list<BlockEntry*>& idle = directory_.idle_on_host();
    auto victim = idle.begin();
    if (victim != idle.end() && *victim == but) ++victim;
    if (victim == idle.end()) return false;
    EvictFromHost(**victim);
  }
  return true;
}

// A cached block moves to the host where there is room for it, else it is forgotten: half of its layers are of no use.
void KvPlacement::EvictFromDevice(BlockEntry& entry, const KvAmounts& need) {
  const LayerSet layers = directory_.EvictableDevice(entry), missing = layers - entry.host;
  const bool moves = missing.empty() || FramesFor(missing, &entry, need);
  if (!moves && entry.users.empty()) return Forget(entry);
  if (moves) Move(entry, MoveKind::kCopyOut, missing);
  Move(entry, MoveKind::kDropDevice, layers);
  Place(entry, entry.device - layers, moves ? entry.host | missing : entry.host);
}

void KvPlacement::EvictFromHost(BlockEntry& entry) {
  const LayerSet layers = directory_.EvictableHost(entry);
  const bool twice = entry.device.Contains(layers);  // the device has them too
  if (!twice && entry.users.empty()) return Forget(entry);
  Move(entry, MoveKind::kDropHost, layers);
  Place(entry, entry.device, entry.host - layers);
}

// ---- what one sequence takes

KvAmounts KvPlacement::RingGrowth(const LayerSet& kept, int64_t blocks) const {
  KvAmounts growth = RingNeed(kept, blocks);
  for (size_t s = 0; s < growth.size(); ++s) {
    growth[s].slots = std::max<int64_t>(0, growth[s].slots - budget_.RingOf(s));
  }
  return growth;
}

KvAmounts KvPlacement::Growth(const SequenceState& sequence, const LayerSet& kept, int32_t reserved) const {
  KvAmounts growth = TailCharge(sequence, kept, reserved);
  TakeFrom(&growth, sequence.charge);
  AddTo(&growth, RingGrowth(kept, static_cast<int64_t>(sequence.blocks.size()) + reserved));
  return growth;
}

bool KvPlacement::Recharge(SequenceState& sequence, const LayerSet& kept, int32_t reserved) {
  const KvAmounts growth = Growth(sequence, kept, reserved);
  if (!Obtain(growth)) return false;
  budget_.Give(growth);  // its ring is the floor's from now on
  budget_.Give(sequence.charge);
  sequence.charge = TailCharge(sequence, kept, reserved);
  sequence.reserved = reserved;
  CHECK(budget_.Try(sequence.charge));
  if (kept != shape_.all) FindFloor();
  return true;
}

// ---- layers that running sequences keep

LayerSet KvPlacement::KeptByUsers(const BlockEntry& entry, const SequenceState* but) const {
  LayerSet kept;
  for (const SequenceState* user : entry.users) {
    if (user != but) kept |= user->kept;
  }
  return kept;
}

// What is gained and needed when the sequence stops keeping `layers`: slots are negative where it gains.
KvAmounts KvPlacement::CostOfLowering(const SequenceState& sequence, const LayerSet& layers) const {
  KvAmounts cost = TailCharge(sequence, sequence.kept - layers, sequence.reserved);
  TakeFrom(&cost, sequence.charge);
  for (const BlockEntry* entry : sequence.blocks) {
    const LayerSet leave = (entry->device & layers) - KeptByUsers(*entry, &sequence);
    TakeFrom(&cost, shape_.Slots(1, leave));
    AddTo(&cost, shape_.Frames(1, leave - entry->host));
  }
  AddTo(&cost, RingGrowth(sequence.kept - layers, static_cast<int64_t>(sequence.blocks.size()) + sequence.reserved));
  return cost;
}

// The fewest layers of the stage whose leaving frees slots there; the first streamed layer alone frees none, since its
// blocks need a ring to pass through. Empty if there are none.
LayerSet KvPlacement::LayersToLower(const SequenceState& sequence, size_t stage) const {
  LayerSet lowered, kept = sequence.kept;
  while (true) {
    const LayerSet here = kept & shape_.stages[stage].layers;
    if (here.empty()) return {};
    LayerSet candidates = here - LayerSet::Interleaved(std::max(0, kept.size() - 1), shape_.layers);
    if (candidates.empty()) candidates = here;
    int32_t last = -1;
    candidates.ForEach([&](LayerId layer) { last = Value(layer); });
    lowered.Add(LayerId{last});
    kept.Remove(LayerId{last});
    const KvAmounts cost = CostOfLowering(sequence, lowered);
    if (cost[stage].slots < 0) return FramesCover(Obtainable(), cost) ? lowered : LayerSet();
  }
}

// Requires: LayersToLower gave the layers.
void KvPlacement::Lower(SequenceState& sequence, const LayerSet& layers) {
  FreeFrames(CostOfLowering(sequence, layers));
  for (BlockEntry* entry : sequence.blocks) {
    const LayerSet leave = (entry->device & layers) - KeptByUsers(*entry, &sequence);
    Move(*entry, MoveKind::kCopyOut, leave - entry->host);
    Move(*entry, MoveKind::kDropDevice, leave);
    Place(*entry, entry->device - leave, entry->host | leave);
  }
  SetKept(sequence, sequence.kept - layers);
  budget_.Give(sequence.charge);
  sequence.charge = TailCharge(sequence, sequence.kept, sequence.reserved);
  CHECK(budget_.Try(sequence.charge));
  FindFloor();
}

bool KvPlacement::LowerFor(const SequenceState& sequence, int32_t end, absl::Span<SequenceState* const> running) {
  if (options_.fixed_keep >= 0) return false;
  const int32_t reserved =
      std::max(sequence.reserved, shape_.BlocksFor(end) - static_cast<int32_t>(sequence.blocks.size()));
  const auto lacking = [&] {
    KvAmounts more = Growth(sequence, sequence.kept, reserved);
    TakeFrom(&more, Obtainable());
    return more;
  };
  // All that lowering everybody could give, less the ring that the longest would need.
  KvAmounts most(shape_.stages.size());
  int64_t longest = 0;
  for (const SequenceState* other : running) {
    const int64_t blocks = static_cast<int64_t>(other->blocks.size()) + other->reserved;
    AddTo(&most, shape_.Slots(blocks, other->kept));
    longest = std::max(longest, blocks);
  }
  TakeFrom(&most, RingGrowth({}, longest));
  if (!SlotsCover(most, lacking())) return false;

  while (true) {
    const KvAmounts more = lacking();
    size_t stage = 0;
    while (stage < more.size() && more[stage].slots <= 0) ++stage;
    if (stage == more.size()) return FramesCover(KvAmounts(more.size()), more);
    SequenceState* largest = nullptr;
    LayerSet layers;
    int64_t largest_slots = 0;
    for (SequenceState* other : running) {
      const int64_t blocks = static_cast<int64_t>(other->blocks.size()) + other->reserved;
      const int64_t slots = blocks * (other->kept & shape_.stages[stage].layers).size();
      if (other->phase != Phase::kRunning || slots <= largest_slots) continue;
      const LayerSet lower = LayersToLower(*other, stage);
      if (lower.empty()) continue;
      largest = other;
      layers = lower;
      largest_slots = slots;
    }
    if (largest == nullptr) return false;
    Lower(*largest, layers);
  }
}

bool KvPlacement::ParkingHelps(const SequenceState& sequence, int32_t end,
                               absl::Span<SequenceState* const> victims) const {
  const int32_t reserved =
      std::max(sequence.reserved, shape_.BlocksFor(end) - static_cast<int32_t>(sequence.blocks.size()));
  const absl::flat_hash_set<const SequenceState*> gone(victims.begin(), victims.end());
  const auto goes = [&](const SequenceState* user) { return gone.contains(user); };
  absl::flat_hash_set<const BlockEntry*> counted;
  KvAmounts room = Obtainable();
  for (const SequenceState* victim : victims) {
    AddTo(&room, victim->charge);
    for (const BlockEntry* entry : victim->blocks) {
      if (!std::all_of(entry->users.begin(), entry->users.end(), goes) || !counted.insert(entry).second) continue;
      AddTo(&room, shape_.Slots(1, entry->device - directory_.EvictableDevice(*entry)));
    }
  }
  return Covers(room, Growth(sequence, sequence.kept, reserved));
}

bool KvPlacement::RaiseLayer(SequenceState& sequence, LayerId layer, int32_t spare, int64_t* extents) {
  const LayerSet one = LayerSet::Range(Value(layer), Value(layer) + 1);
  int64_t lacking = 0;
  for (size_t b = 0; b < sequence.blocks.size(); ++b) {
    lacking += Seen(sequence, static_cast<int32_t>(b)).Has(layer) && !sequence.blocks[b]->device.Has(layer) ? 1 : 0;
  }
  if (lacking > *extents) return false;
  KvAmounts need = shape_.Slots(lacking, one);
  AddTo(&need, TailCharge(sequence, sequence.kept | one, sequence.reserved));
  TakeFrom(&need, sequence.charge);
  if (!Covers(Obtainable(), Sum(need, shape_.Slots(spare, shape_.all))) || !Obtain(need)) return false;
  budget_.Give(need);
  for (size_t b = 0; b < sequence.blocks.size(); ++b) {
    BlockEntry& entry = *sequence.blocks[b];
    if (!Seen(sequence, static_cast<int32_t>(b)).Has(layer) || entry.device.Has(layer)) continue;
    Move(entry, MoveKind::kCopyIn, one & entry.host);
    Place(entry, entry.device | one, entry.host);
  }
  budget_.Give(sequence.charge);
  SetKept(sequence, sequence.kept | one);
  sequence.charge = TailCharge(sequence, sequence.kept, sequence.reserved);
  CHECK(budget_.Try(sequence.charge));
  FindFloor();
  *extents -= lacking;
  return true;
}

bool KvPlacement::Raise(SequenceState& sequence, int32_t spare, int64_t most_extents) {
  if (options_.fixed_keep >= 0) return false;
  bool raised = false;
  while (sequence.kept != shape_.all) {
    LayerSet candidates = LayerSet::Interleaved(sequence.kept.size() + 1, shape_.layers) - sequence.kept;
    if (candidates.empty()) candidates = shape_.all - sequence.kept;
    int32_t first = -1;
    candidates.ForEach([&](LayerId layer) { first = first < 0 ? Value(layer) : first; });
    if (!RaiseLayer(sequence, LayerId{first}, spare, &most_extents)) break;
    raised = true;
  }
  return raised;
}

void KvPlacement::CheckInvariants(absl::Span<SequenceState* const> sequences) const {
  KvAmounts taken(shape_.stages.size());
  directory_.ForEach([&](const BlockEntry& entry) {
    AddTo(&taken, shape_.Slots(1, entry.device));
    AddTo(&taken, shape_.Frames(1, entry.host));
  });
  for (const SequenceState* sequence : sequences) {
    AddTo(&taken, sequence->charge);
    for (size_t b = 0; b < sequence->blocks.size(); ++b) {
      const BlockEntry& entry = *sequence->blocks[b];
      CHECK_MSG(entry.index == static_cast<int32_t>(b),
                "contracts.blocks: a block lies at another place of a sequence");
      CHECK_MSG(sequence->phase == Phase::kWaiting ? entry.holds > 0
                                                   : std::count(entry.users.begin(), entry.users.end(), sequence) == 1,
                "contracts.blocks: a sequence's block does not know it");
    }
  }
  CHECK_MSG(taken == budget_.taken(), "contracts.kv-budget: what is charged is not what is placed");
  CHECK_MSG(Covers(budget_.Free(), KvAmounts(taken.size())), "contracts.kv-budget: more is taken than there is");
}

}  // namespace interlace
