// KvPlacement: prefixes and the life of a sequence. Room is made in kv_room.cc.
#include "coordinator/kv_placement.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/check.h"

namespace interlace {
namespace {

constexpr int32_t kTailBlocks = 2;  // one that is full and not named yet, and the next

// What a sequence is charged for `reserved` blocks; `live`: sealed blocks that each window group still sees.
KvAmounts ChargeOfTail(const ReplicaShape& shape, int32_t chunk_tokens, const LayerSet& kept, int32_t reserved,
                       absl::Span<const int32_t> live) {
  const LayerSet streamed = shape.all - kept;
  KvAmounts charge(shape.stages.size());
  if (!streamed.empty()) shape.AddRoom(kTailBlocks, streamed, {}, &charge);
  shape.AddRoom(reserved, kept & shape.unbounded, streamed & shape.unbounded, &charge);
  for (size_t g = 0; g < shape.windows.size(); ++g) {
    const WindowGroup& group = shape.windows[g];
    const int32_t most = std::max(0, shape.MostLive(group, chunk_tokens) - live[g]);
    shape.AddRoom(std::min(reserved, most), kept & group.layers, streamed & group.layers, &charge);
  }
  return charge;
}

// The room through which the streamed layers of `blocks` blocks pass.
KvAmounts RingOfBlocks(const ReplicaShape& shape, const LayerSet& kept, int64_t blocks) {
  KvAmounts ring;
  for (const StageShape& stage : shape.stages) ring.push_back({kept.Contains(stage.layers) ? 0 : blocks, 0});
  return ring;
}

}  // namespace

KvPlacement::KvPlacement(ReplicaShape shape, const Options& options, KvObserver* observer)
    : shape_(std::move(shape)),
      options_(options),
      budget_(shape_.Total()),
      directory_(shape_, observer),
      late_(shape_.stages.size()) {}

// ---- arithmetic

KvAmounts KvPlacement::TailCharge(const LayerSet& kept, int32_t reserved, absl::Span<const int32_t> live) const {
  return ChargeOfTail(shape_, options_.chunk_tokens, kept, reserved, live);
}

KvAmounts KvPlacement::TailCharge(const SequenceState& sequence, const LayerSet& kept, int32_t reserved) const {
  absl::InlinedVector<int32_t, 2> live;
  for (int32_t from : sequence.seen_from) live.push_back(static_cast<int32_t>(sequence.blocks.size()) - from);
  return TailCharge(kept, reserved, live);
}

KvAmounts KvPlacement::RingNeed(const LayerSet& kept, int64_t blocks) const {
  return RingOfBlocks(shape_, kept, blocks);
}

absl::Status KvPlacement::CheckCanRun(const ReplicaShape& shape, const Options& options, int32_t tokens) {
  const int32_t blocks = shape.BlocksFor(tokens);
  const std::vector<int32_t> live(shape.windows.size(), 0);
  const int32_t most = options.fixed_keep < 0 ? shape.layers : std::min(options.fixed_keep, shape.layers);
  const int32_t least = options.fixed_keep < 0 ? 0 : most;
  const KvAmounts total = shape.Total();
  std::string why;
  for (int32_t x = most; x >= least; --x) {
    const LayerSet kept = LayerSet::Interleaved(x, shape.layers);
    KvAmounts need = ChargeOfTail(shape, options.chunk_tokens, kept, blocks, live);
    AddTo(&need, RingOfBlocks(shape, kept, blocks));
    if (Covers(total, need)) return absl::OkStatus();
    for (size_t s = 0; s < need.size() && x == least; ++s) {
      const KvRoom& room = shape.stages[s].room;
      if (need[s].slots > room.slots) {
        why = absl::StrCat(need[s].slots, " device slots of stage ", s, ", which has ", room.slots,
                           "; raise kv.device_bytes", x > 0 ? " or lower kv.keep_layers" : "");
      } else if (need[s].frames > room.frames) {
        why = absl::StrCat(need[s].frames, " host frames of stage ", s, ", which has ", room.frames,
                           "; raise kv.host_bytes or kv.device_bytes");
      }
    }
  }
  return absl::FailedPreconditionError(absl::StrCat("the request can never run: ", tokens, " tokens with ", least,
                                                    " of ", shape.layers, " layers kept take ", why,
                                                    ", or ask for fewer tokens"));
}

// ---- prefixes

int32_t KvPlacement::Match(const SequenceState& sequence, int32_t most, PlanId now) const {
  most = std::min(most, static_cast<int32_t>(sequence.ids.size()));
  std::vector<LayerSet> placed;
  for (int32_t b = 0; b < most; ++b) {
    const BlockEntry* entry = directory_.Find(sequence.ids[b]);
    if (entry == nullptr || entry->sealed_in == now || !entry->arriving.empty()) break;
    if (!entry->placed().Contains(shape_.unbounded)) break;
    placed.push_back(entry->placed());
  }
  if (shape_.windows.empty()) return static_cast<int32_t>(placed.size());
  // A row after the first n blocks sees the last ones of them in windowed layers.
  for (auto n = static_cast<int32_t>(placed.size()); n > 0; --n) {
    const std::vector<int32_t> from = shape_.SeenFrom(n * shape_.block_tokens);
    int32_t b = *std::min_element(from.begin(), from.end());
    while (b < n && placed[b].Contains(shape_.Seen(from, b))) ++b;
    if (b >= n) return n;
  }
  return 0;
}

bool KvPlacement::EntryArrives(const SequenceState& sequence, int32_t block) const {
  if (block >= static_cast<int32_t>(sequence.ids.size())) return false;
  const BlockEntry* entry = directory_.Find(sequence.ids[block]);
  return entry != nullptr && !entry->arriving.empty();
}

// ---- the life of a sequence

bool KvPlacement::Start(SequenceState& sequence, int32_t adopted, int32_t fetched, const StartRoom& limits) {
  const std::vector<BlockEntry*> held = std::exchange(sequence.blocks, {});
  sequence.seen_from = shape_.SeenFrom((adopted + fetched) * shape_.block_tokens);
  std::vector<int64_t> lacking(shape_.layers);  // [layer] seen blocks that no slot holds
  for (int32_t b = 0; b < adopted + fetched; ++b) {
    BlockEntry& entry = directory_.Ensure(sequence, b);
    directory_.AddUser(entry, &sequence);
    sequence.blocks.push_back(&entry);
    (Seen(sequence, b) - entry.device).ForEach([&](LayerId l) { ++lacking[Value(l)]; });
  }
  std::vector<int64_t> nowhere(shape_.layers);  // [layer] of these, blocks that no frame holds either: to be fetched
  for (int32_t b = adopted; b < adopted + fetched; ++b) {
    (Seen(sequence, b) - sequence.blocks[b]->placed()).ForEach([&](LayerId l) { ++nowhere[Value(l)]; });
  }
  const int32_t total = shape_.BlocksFor(sequence.known);
  const int32_t reserved = total - adopted - fetched;
  KvAmounts room = Obtainable();
  TakeFrom(&room, shape_.Slots(limits.spare, shape_.all));

  const bool fixed = options_.fixed_keep >= 0;
  const int32_t most = std::min(fixed ? options_.fixed_keep : limits.most, shape_.layers);
  const int32_t least = fixed ? most : std::min(limits.least, most);
  for (int32_t x = most; x >= least; --x) {
    const LayerSet kept = LayerSet::Interleaved(x, shape_.layers);
    KvAmounts need = TailCharge(sequence, kept, reserved);
    for (int32_t l = 0; l < shape_.layers; ++l) {
      const LayerSet layer = LayerSet::Range(l, l + 1);
      if (lacking[l] > 0 && kept.Has(LayerId{l})) AddTo(&need, shape_.Slots(lacking[l], layer));
      if (nowhere[l] > 0 && !kept.Has(LayerId{l})) AddTo(&need, shape_.Frames(nowhere[l], layer));
    }
    KvAmounts with_ring = need;
    for (size_t s = 0; s < need.size(); ++s) {
      const int64_t ring = RingNeed(kept, total)[s].slots;
      with_ring[s].slots += std::max<int64_t>(0, ring - budget_.RingOf(s));
    }
    if (!Covers(room, with_ring) || !Obtain(with_ring)) continue;
    budget_.Give(with_ring);  // taken below, piece by piece; the ring is the floor's
    for (BlockEntry* entry : held) directory_.SetHolds(*entry, entry->holds - 1);
    for (BlockEntry* entry : held) EraseIfGone(*entry);
    sequence.reserved = reserved;
    sequence.charge = TailCharge(sequence, kept, reserved);
    CHECK(budget_.Try(sequence.charge));
    SetKept(sequence, kept);
    NoteFound(sequence);
    for (int32_t b = 0; b < adopted + fetched; ++b) {
      BlockEntry& entry = *sequence.blocks[b];
      const LayerSet seen = Seen(sequence, b), to_device = (seen & kept) - entry.device;
      const LayerSet from_host = to_device & entry.host, missing = (seen - kept) - entry.placed();
      // What is on its way does not lie there yet, for whoever observes the directory.
      directory_.SetArriving(entry, entry.arriving | (to_device - from_host) | missing);
      Place(entry, entry.device | to_device, entry.host | missing);
      Move(entry, MoveKind::kCopyIn, from_host);
      Move(entry, MoveKind::kFetchDevice, to_device - from_host, limits.slack_ms);
      Move(entry, MoveKind::kFetchHost, missing, limits.slack_ms);
    }
    FindFloor();
    CountSealed(sequence);
    return true;
  }
  for (size_t b = sequence.blocks.size(); b-- > 0;) {
    directory_.RemoveUser(*sequence.blocks[b], &sequence);
    EraseIfGone(*sequence.blocks[b]);
  }
  sequence.blocks = held;
  return false;
}

// Where the blocks lie that the sequence starts with, layer by layer.
void KvPlacement::NoteFound(SequenceState& sequence) const {
  std::vector<LayerExplanation>& layers = sequence.explanation.layers;
  layers.resize(shape_.layers);
  for (LayerExplanation& layer : layers) layer.found_device = layer.found_host = layer.found_below = 0;
  for (size_t b = 0; b < sequence.blocks.size(); ++b) {
    const BlockEntry& entry = *sequence.blocks[b];
    const LayerSet seen = Seen(sequence, static_cast<int32_t>(b)), device = entry.device - entry.arriving;
    const LayerSet host = (entry.host - entry.arriving) - device;
    (seen & device).ForEach([&](LayerId l) { ++layers[Value(l)].found_device; });
    (seen & host).ForEach([&](LayerId l) { ++layers[Value(l)].found_host; });
    ((seen - device) - host).ForEach([&](LayerId l) { ++layers[Value(l)].found_below; });
  }
}

bool KvPlacement::WidenRing(const SequenceState& sequence, int32_t end, PlanId plan) {
  auto [it, fresh] = rings_.try_emplace(plan, KvAmounts(shape_.stages.size()));
  KvAmounts ring = it->second;
  AddTo(&ring, RingNeed(sequence.kept, shape_.BlocksFor(end)));
  for (size_t s = 0; s < ring.size(); ++s) {  // the cache gives way to a ring
    const int64_t more = ring[s].slots - budget_.RingOf(s);
    if (more <= 0) continue;
    KvAmounts need(ring.size());
    need[s].slots = more;
    if (!Covers(Obtainable(), need)) return false;
    FreeSlots(need);
  }
  if (!budget_.TryRing(plan, ring)) return false;
  it->second = ring;
  return true;
}

void KvPlacement::EndPlan(PlanId plan) {
  if (rings_.erase(plan) > 0) budget_.EndRing(plan);
}

bool KvPlacement::LeaveBehind(SequenceState& sequence, int32_t start) {
  bool moved = false;
  for (size_t g = 0; g < shape_.windows.size(); ++g) {
    const int32_t first =
        std::min(shape_.FirstSeen(shape_.windows[g], start), static_cast<int32_t>(sequence.blocks.size()));
    for (int32_t& from = sequence.seen_from[g]; from < first; moved = true) {
      directory_.FindIdle(*sequence.blocks[from++]);
    }
  }
  return !moved || Grow(sequence, sequence.reserved);
}

void KvPlacement::BeginPlan() {
  budget_.Give(late_);
  late_.assign(late_.size(), {});
  for (BlockEntry* entry : std::exchange(sealing_, {})) {
    directory_.SetHolds(*entry, entry->holds - 1);
    EraseIfGone(*entry);
  }
}

void KvPlacement::Seal(SequenceState& sequence, int32_t count, PlanId plan) {
  while (static_cast<int32_t>(sequence.blocks.size()) < count) {
    const auto index = static_cast<int32_t>(sequence.blocks.size());
    CHECK_MSG(sequence.reserved > 0, "a block is sealed that no room was reserved for");
    BlockEntry& entry = directory_.Ensure(sequence, index);
    const LayerSet device = entry.device | sequence.kept;
    const LayerSet host = entry.host | ((shape_.all - sequence.kept) - entry.placed());
    // A reserved block becomes a sealed one: never more than before. Where another's copy lay already, what was
    // reserved stays taken until the plan has been executed.
    KvAmounts surplus = std::move(sequence.charge);
    TakeFrom(&surplus, RoomToPlace(entry, device, host));
    sequence.blocks.push_back(&entry);
    CountSealed(sequence);
    sequence.charge = TailCharge(sequence, sequence.kept, --sequence.reserved);
    // Where PassWindows found no room for what the windows see next, the charge is no more than what is left.
    for (size_t s = 0; s < surplus.size(); ++s) {
      sequence.charge[s].slots = std::min(sequence.charge[s].slots, surplus[s].slots);
      sequence.charge[s].frames = std::min(sequence.charge[s].frames, surplus[s].frames);
    }
    CHECK_MSG(Covers(surplus, KvAmounts(surplus.size())), "contracts.kv-budget: sealing took more than was reserved");
    TakeFrom(&surplus, sequence.charge);
    AddTo(&late_, surplus);
    directory_.Seal(entry, &sequence, device, host);
    entry.sealed_in = plan;
    // The plan's moves take effect before its names: a frame of the block is needed until then.
    directory_.SetHolds(entry, entry.holds + 1);
    sealing_.push_back(&entry);
  }
}

void KvPlacement::Park(SequenceState& sequence) {
  const std::vector<BlockEntry*> blocks = sequence.blocks;
  for (BlockEntry* entry : blocks) directory_.SetHolds(*entry, entry->holds + 1);
  Release(sequence);
  sequence.blocks = blocks;
  CountSealed(sequence);
}

void KvPlacement::Release(SequenceState& sequence) {
  // The deepest blocks are evicted first: what comes before them is of use without them.
  for (size_t b = sequence.blocks.size(); b-- > 0;) {
    BlockEntry& entry = *sequence.blocks[b];
    if (sequence.phase == Phase::kWaiting) {
      directory_.SetHolds(entry, entry.holds - 1);
    } else {
      directory_.RemoveUser(entry, &sequence);
    }
    EraseIfGone(entry);
  }
  sequence.blocks.clear();
  CountSealed(sequence);
  budget_.Give(sequence.charge);
  sequence.charge.clear();
  sequence.reserved = 0;
  sequence.kept = {};
  sequence.kept_layers = 0;
  sequence.kept_changed = false;
  changed_.erase(&sequence);
  if (streaming_.erase(&sequence) > 0) FindFloor();
}

// ---- faults and answers

void KvPlacement::Forget(BlockEntry& entry) {
  // What is on its way holds its room until it has arrived, and its answer must not be taken for a later fetch's.
  const LayerSet arriving = entry.arriving;
  Move(entry, MoveKind::kDropDevice, entry.device - arriving);
  Move(entry, MoveKind::kDropHost, entry.host - arriving);
  Place(entry, entry.device & arriving, entry.host & arriving);
  EraseIfGone(entry);
}

void KvPlacement::ForgetCache() {
  while (!directory_.idle_on_device().empty()) Forget(*directory_.idle_on_device().front());
  while (!directory_.idle_on_host().empty()) Forget(*directory_.idle_on_host().front());
}

void KvPlacement::OnFetched(const FetchAnswer& answer, const LayerSet& uneven) {
  BlockEntry* entry = directory_.Find(answer.block);
  const LayerSet partly = entry == nullptr ? uneven : uneven & entry->arriving;
  for (MoveKind drop : {MoveKind::kDropDevice, MoveKind::kDropHost}) {
    if (!partly.empty()) moves_.push_back({answer.block, drop, partly});
  }
  if (entry == nullptr) return;  // forgotten meanwhile
  const LayerSet failed = answer.failed & entry->arriving;
  Place(*entry, entry->device - failed, entry->host - failed);  // before it counts as having arrived
  directory_.SetArriving(*entry, entry->arriving - (answer.arrived | answer.failed));
  EraseIfGone(*entry);
}

bool KvPlacement::SealedBy(const SequenceState& sequence, int32_t block, PlanId plan) const {
  if (block >= static_cast<int32_t>(sequence.ids.size())) return false;
  const BlockEntry* entry = directory_.Find(sequence.ids[block]);
  return entry != nullptr && entry->sealed_in == plan;
}

bool KvPlacement::Waits(const SequenceState& sequence) const {
  return std::any_of(sequence.blocks.begin(), sequence.blocks.end(),
                     [](const BlockEntry* entry) { return !entry->arriving.empty(); });
}

bool KvPlacement::Whole(const SequenceState& sequence) const {
  for (size_t b = 0; b < sequence.blocks.size(); ++b) {
    if (!sequence.blocks[b]->placed().Contains(Seen(sequence, static_cast<int32_t>(b)))) return false;
  }
  return true;
}

LayerSet KvPlacement::TakeKept(SequenceState& sequence) {
  changed_.erase(&sequence);
  sequence.kept_changed = false;
  return sequence.kept;
}

std::vector<BlockMove> KvPlacement::TakeMoves() { return std::exchange(moves_, {}); }

int64_t KvPlacement::FreeBlocks() const {
  const KvAmounts room = Obtainable();
  int64_t least = std::numeric_limits<int64_t>::max();
  for (size_t s = 0; s < room.size(); ++s) least = std::min(least, room[s].slots / shape_.stages[s].layers.size());
  return std::max<int64_t>(0, least);
}

bool KvPlacement::CouldBeWhole(int32_t tokens) const {
  const std::vector<int32_t> live(shape_.windows.size(), 0);
  return Covers(shape_.Total(), TailCharge(shape_.all, shape_.BlocksFor(tokens), live));
}

// ---- pieces

bool KvPlacement::ChargedForWindows(const SequenceState& sequence) const {
  return sequence.charge == TailCharge(sequence, sequence.kept, sequence.reserved);
}

void KvPlacement::CountSealed(SequenceState& sequence) {
  sequence.sealed = static_cast<int32_t>(sequence.blocks.size());
}

KvAmounts KvPlacement::RoomToPlace(const BlockEntry& entry, const LayerSet& device, const LayerSet& host) const {
  KvAmounts more(shape_.stages.size());
  shape_.AddRoom(1, device, host, &more);
  if (!entry.placed().empty()) shape_.AddRoom(-1, entry.device, entry.host, &more);
  return more;
}

void KvPlacement::Place(BlockEntry& entry, const LayerSet& device, const LayerSet& host) {
  const bool room = budget_.Try(RoomToPlace(entry, device, host));
  CHECK_MSG(room, "contracts.kv-budget: a block was placed where no room had been made");
  directory_.SetPlaces(entry, device, host);
}

void KvPlacement::Move(const BlockEntry& entry, MoveKind kind, const LayerSet& layers, int32_t slack_ms) {
  if (!layers.empty()) moves_.push_back({entry.id, kind, layers, slack_ms});
}

void KvPlacement::EraseIfGone(BlockEntry& entry) {
  if (entry.users.empty() && entry.holds == 0 && entry.placed().empty()) directory_.Erase(entry);
}

void KvPlacement::SetKept(SequenceState& sequence, const LayerSet& kept) {
  sequence.kept = kept;
  sequence.kept_layers = kept.size();
  sequence.kept_changed = true;
  changed_.insert(&sequence);
  if (kept == shape_.all) {
    streaming_.erase(&sequence);
  } else {
    streaming_.insert(&sequence);
  }
}

void KvPlacement::FindFloor() {
  KvAmounts floor(shape_.stages.size());
  for (const SequenceState* sequence : streaming_) {
    const KvAmounts need = RingNeed(sequence->kept, static_cast<int64_t>(sequence->blocks.size()) + sequence->reserved);
    for (size_t s = 0; s < need.size(); ++s) floor[s].slots = std::max(floor[s].slots, need[s].slots);
  }
  budget_.SetFloor(std::move(floor));
}

}  // namespace interlace
