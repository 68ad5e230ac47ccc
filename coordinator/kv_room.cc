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
  for (const std::list<BlockEntry*>* list : {&directory_.idle_on_device(), &directory_.held_on_device()}) {
    while (!SlotsCover(budget_.Free(), need) && !list->empty()) EvictFromDevice(*list->front(), need);
  }
}

void KvPlacement::FreeFrames(const KvAmounts& need) {
  while (!FramesCover(budget_.Free(), need) && !directory_.idle_on_host().empty()) {
    EvictFromHost(*directory_.idle_on_host().front());
  }
}

bool KvPlacement::FramesFor(const LayerSet& layers, const BlockEntry* but, const KvAmounts& need) {
  KvAmounts wanted = shape_.Frames(1, layers);
  for (size_t s = 0; s < need.size(); ++s) wanted[s].frames += std::max<int64_t>(0, need[s].frames);
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

LayerSet KvPlacement::KeptByUsers(const BlockEntry& entry, const SequenceState* but) const {
  LayerSet kept;
  for (const SequenceState* user : entry.users) {
    if (user != but) kept |= user->kept;
  }
  return kept;
}

// Layers of its block that move to the device, and those that leave it, when the sequence keeps `kept` instead.
KvPlacement::Shift KvPlacement::ShiftOf(const SequenceState& sequence, int32_t block, const LayerSet& kept) const {
  const BlockEntry& entry = *sequence.blocks[block];
  const LayerSet seen = Seen(sequence, block);
  const LayerSet leaves = sequence.kept - kept;
  Shift shift;
  shift.in = ((kept - sequence.kept) & seen) - entry.device;
  if (!(leaves & seen & entry.device).empty())
    shift.out = (leaves & seen & entry.device) - KeptByUsers(entry, &sequence);
  return shift;
}

KvAmounts KvPlacement::CostOfKeeping(const SequenceState& sequence, const LayerSet& kept, int32_t reserved) const {
  KvAmounts cost = TailCharge(sequence, kept, reserved);
  TakeFrom(&cost, sequence.charge);
  const auto blocks = static_cast<int32_t>(sequence.blocks.size());
  for (int32_t b = 0; b < blocks && kept != sequence.kept; ++b) {
    const Shift shift = ShiftOf(sequence, b, kept);
    AddTo(&cost, shape_.Slots(1, shift.in));
    TakeFrom(&cost, shape_.Frames(1, shift.in & sequence.blocks[b]->host));
    TakeFrom(&cost, shape_.Slots(1, shift.out));
    AddTo(&cost, shape_.Frames(1, shift.out - sequence.blocks[b]->host));
  }
  AddTo(&cost, RingGrowth(kept, int64_t{blocks} + reserved));
  return cost;
}

bool KvPlacement::Grow(SequenceState& sequence, int32_t reserved) {
  KvAmounts charge = TailCharge(sequence, sequence.kept, reserved), more = charge;
  TakeFrom(&more, sequence.charge);
  const bool streams = sequence.kept != shape_.all;
  const KvAmounts ring = streams ? RingGrowth(sequence.kept, static_cast<int64_t>(sequence.blocks.size()) + reserved)
                                 : KvAmounts(more.size());
  AddTo(&more, ring);
  if (!Obtain(more)) return false;
  budget_.Give(ring);  // it is the floor's from now on
  sequence.reserved = reserved;
  sequence.charge = std::move(charge);
  if (streams) FindFloor();
  return true;
}

bool KvPlacement::Keep(SequenceState& sequence, const LayerSet& kept, int32_t reserved) {
  if (kept == sequence.kept) return Grow(sequence, reserved);
  const KvAmounts cost = CostOfKeeping(sequence, kept, reserved);
  // Frames beside slots of the sequence's own blocks are cache, but what leaves the device is about to need them.
  const bool leaves = !kept.Contains(sequence.kept);
  for (BlockEntry* entry : sequence.blocks) {
    if (leaves) directory_.SetHolds(*entry, entry->holds + 1);
  }
  const bool obtained = Obtain(cost);
  for (BlockEntry* entry : sequence.blocks) {
    if (leaves) directory_.SetHolds(*entry, entry->holds - 1);
  }
  if (!obtained) return false;
  budget_.Give(cost);  // taken again piece by piece; the ring is the floor's from now on
  budget_.Give(sequence.charge);
  const auto blocks = static_cast<int32_t>(sequence.blocks.size());
  std::vector<Shift> shifts;
  for (int32_t b = 0; b < blocks; ++b) shifts.push_back(ShiftOf(sequence, b, kept));
  for (size_t b = 0; b < shifts.size(); ++b) {  // what leaves makes room for what comes
    BlockEntry& entry = *sequence.blocks[b];
    Move(entry, MoveKind::kCopyOut, shifts[b].out - entry.host);
    Move(entry, MoveKind::kDropDevice, shifts[b].out);
    Place(entry, entry.device - shifts[b].out, entry.host | shifts[b].out);
  }
  for (size_t b = 0; b < shifts.size(); ++b) {
    BlockEntry& entry = *sequence.blocks[b];
    Move(entry, MoveKind::kCopyIn, shifts[b].in & entry.host);
    Move(entry, MoveKind::kDropHost, shifts[b].in & entry.host);
    Place(entry, entry.device | shifts[b].in, entry.host - shifts[b].in);
  }
  SetKept(sequence, kept);
  sequence.reserved = reserved;
  sequence.charge = TailCharge(sequence, kept, reserved);
  CHECK(budget_.Try(sequence.charge));
  FindFloor();
  return true;
}

// ---- which layers to keep

int32_t KvPlacement::ReservedFor(const SequenceState& sequence, int32_t end) const {
  return std::max(sequence.reserved, shape_.BlocksFor(end) - static_cast<int32_t>(sequence.blocks.size()));
}

LayerSet KvPlacement::OneLess(const LayerSet& kept, const LayerSet& of) const {
  LayerSet candidates = (kept & of) - LayerSet::Interleaved(std::max(0, kept.size() - 1), shape_.layers);
  if (candidates.empty()) candidates = kept & of;
  LayerSet less = kept;
  int32_t last = -1;
  candidates.ForEach([&](LayerId layer) { last = Value(layer); });
  if (last >= 0) less.Remove(LayerId{last});
  return less;
}

LayerSet KvPlacement::OneMore(const LayerSet& kept) const {
  LayerSet candidates = LayerSet::Interleaved(std::min(kept.size() + 1, shape_.layers), shape_.layers) - kept;
  if (candidates.empty()) candidates = shape_.all - kept;
  LayerSet more = kept;
  int32_t first = -1;
  candidates.ForEach([&](LayerId layer) { first = first < 0 ? Value(layer) : first; });
  if (first >= 0) more.Add(LayerId{first});
  return more;
}

// Layers only leave, or only come: a swap would need room for both on the way. Fewer give slots, more give frames.
std::optional<LayerSet> KvPlacement::FitIn(const KvAmounts& room, const SequenceState& sequence, int32_t end,
                                           bool shift) const {
  const int32_t reserved = ReservedFor(sequence, end);
  const auto fits = [&](const LayerSet& kept) { return Covers(room, CostOfKeeping(sequence, kept, reserved)); };
  if (fits(sequence.kept)) return sequence.kept;
  if (options_.fixed_keep >= 0 || !shift) return std::nullopt;
  for (LayerSet kept = sequence.kept; !kept.empty();) {
    if (kept = OneLess(kept, shape_.all); fits(kept)) return kept;
  }
  for (LayerSet kept = sequence.kept; kept != shape_.all;) {
    if (kept = OneMore(kept); fits(kept)) return kept;
  }
  return std::nullopt;
}

bool KvPlacement::Refit(SequenceState& sequence, int32_t end, bool shift) {
  const std::optional<LayerSet> kept = FitIn(Obtainable(), sequence, end, shift);
  return kept && Keep(sequence, *kept, ReservedFor(sequence, end));
}

// The fewest layers of the stage whose leaving frees slots there; the first streamed layer alone frees none, since its
// blocks need a ring to pass through. Empty if there are none.
LayerSet KvPlacement::LayersToLower(const SequenceState& sequence, size_t stage) const {
  LayerSet kept = sequence.kept;
  while (!(kept & shape_.stages[stage].layers).empty()) {
    kept = OneLess(kept, shape_.stages[stage].layers);
    const KvAmounts cost = CostOfKeeping(sequence, kept, sequence.reserved);
    if (cost[stage].slots < 0) return FramesCover(Obtainable(), cost) ? sequence.kept - kept : LayerSet();
  }
  return {};
}

bool KvPlacement::LowerFor(const SequenceState& sequence, int32_t end, absl::Span<SequenceState* const> running) {
  if (options_.fixed_keep >= 0) return false;
  const int32_t reserved = ReservedFor(sequence, end);
  const auto lacking = [&] {
    KvAmounts more = CostOfKeeping(sequence, sequence.kept, reserved);
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
    if (largest == nullptr || !Keep(*largest, largest->kept - layers, largest->reserved)) return false;
  }
}

bool KvPlacement::ParkingHelps(const SequenceState& sequence, int32_t end, absl::Span<SequenceState* const> victims,
                               bool shift) const {
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
  return FitIn(room, sequence, end, shift).has_value();
}

bool KvPlacement::Raise(SequenceState& sequence, int64_t spare, int64_t most_extents) {
  if (options_.fixed_keep >= 0) return false;
  bool raised = false;
  while (sequence.kept != shape_.all) {
    most_extents -= static_cast<int64_t>(sequence.blocks.size());
    const LayerSet kept = OneMore(sequence.kept);
    const KvAmounts cost = CostOfKeeping(sequence, kept, sequence.reserved);
    if (most_extents < 0 || !Covers(Obtainable(), Sum(cost, shape_.Slots(spare, shape_.all)))) break;
    if (!Keep(sequence, kept, sequence.reserved)) break;
    raised = true;
  }
  return raised;
}

void KvPlacement::CheckInvariants(absl::Span<SequenceState* const> sequences) const {
  KvAmounts taken = late_;
  std::vector<BlockDirectory::LayerBlocks> by_layer(shape_.layers);
  directory_.ForEach([&](const BlockEntry& entry) {
    AddTo(&taken, shape_.Slots(1, entry.device));
    AddTo(&taken, shape_.Frames(1, entry.host));
    entry.device.ForEach([&](LayerId l) { ++by_layer[Value(l)].device; });
    entry.host.ForEach([&](LayerId l) { ++by_layer[Value(l)].host; });
  });
  CHECK_MSG(by_layer == directory_.by_layer(), "contracts.blocks: the blocks of a layer are counted wrongly");
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
    CHECK_MSG(sequence->sealed == static_cast<int32_t>(sequence->blocks.size()) &&
                  sequence->kept_layers == sequence->kept.size(),
              "contracts.views: a policy sees what is not so");
  }
  CHECK_MSG(taken == budget_.taken(), "contracts.kv-budget: what is charged is not what is placed");
  CHECK_MSG(Covers(budget_.Free(), KvAmounts(taken.size())), "contracts.kv-budget: more is taken than there is");
}

}  // namespace interlace
