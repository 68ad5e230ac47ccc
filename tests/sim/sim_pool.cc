#include "tests/sim/sim_pool.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "common/check.h"

namespace interlace::sim {
namespace {

constexpr uint64_t kScribble = 0x5c51bb1e5c51bb1eULL % kPrime;  // what is read of memory that nobody wrote

}  // namespace

SimPool::SimPool(const Options& options, std::unique_ptr<Entropy> entropy, SimTierStack* tiers, EventLoop& loop,
                 Ledger& ledger, absl::AnyInvocable<void()> wake)
    : options_(options),
      layers_(LayerSet::Range(options.layer_begin, options.layer_end)),
      entropy_(std::move(entropy)),
      tiers_(tiers),
      loop_(loop),
      ledger_(ledger),
      wake_(std::move(wake)),
      slots_(options.slots),
      frames_(options.frames),
      turns_(options.layer_end - options.layer_begin) {
  for (int32_t i = 0; i < options.slots; ++i) slots_.at(i).fill(kScribble);
}

SimPool::~SimPool() { *alive_ = false; }

void SimPool::Reset() {
  for (auto& [id, block] : blocks_) {
    block->holders = 0;
    for (SimPlace& place : block->places) place.on_device = place.on_host = place.streamed = false;
  }
  for (std::vector<SimBlock*>& turn : turns_) turn.clear();
  ++probe_epoch_;
  for (auto& [id, fetch] : fetches_) fetch.forgotten = true;
  if (tiers_ != nullptr) {
    tiers_->CancelFetches();
    Poll(now_);
    if (fetching()) ledger_.Fail("a fetch outlives its epoch");
  }
  fetched_.clear();
  probed_.clear();
  std::vector<SimBlock*> all;
  for (auto& [id, block] : blocks_) all.push_back(block.get());
  for (SimBlock* block : all) ForLayers(block, layers_, [](SimPlace&, int32_t) {});
  while (busy()) Await();
  if (options_.canary == Canary::kNone && !blocks_.empty()) ledger_.Fail("a block outlived the copies that held it");
  blocks_.clear();
}

// ---- the table

SimBlock* SimPool::Find(const BlockId& id) {
  const auto it = blocks_.find(id);
  return it == blocks_.end() ? nullptr : it->second.get();
}

SimBlock* SimPool::FindOrAdd(const BlockId& id) {
  std::unique_ptr<SimBlock>& block = blocks_[id];
  if (block == nullptr) {
    block = std::make_unique<SimBlock>();
    block->id = id;
    block->places.resize(turns_.size());
  }
  return block.get();
}

void SimPool::EraseIfIdle(SimBlock* block) {
  if (block->live == 0 && block->holders == 0) blocks_.erase(BlockId(block->id));
}

void SimPool::Settle(SimBlock* block, int32_t layer) {
  SimPlace& place = block->places[layer];
  const bool too_early = options_.canary == Canary::kDropsBeforeCopied && place.frame >= 0 && !place.frame_ready;
  if (place.slot >= 0 && !place.on_device && !place.streamed && (place.slot_jobs == 0 || too_early)) {
    GiveSlot(std::exchange(place.slot, -1));
    place.slot_ready = false;
  }
  if (place.frame >= 0 && !place.on_host && place.frame_jobs == 0) {
    GiveFrame(std::exchange(place.frame, -1));
    place.frame_ready = false;
  }
  const bool slot_leaving = place.slot >= 0 && !place.on_device && !place.streamed;
  const bool frame_leaving = place.frame >= 0 && !place.on_host;
  slots_leaving_ += slot_leaving - place.slot_leaving;
  frames_leaving_ += frame_leaving - place.frame_leaving;
  place.slot_leaving = slot_leaving;
  place.frame_leaving = frame_leaving;
  const bool live = place.slot >= 0 || place.frame >= 0;
  block->live += live - place.live;
  place.live = live;
  if (!live) place.offered = false;
}

SimBlock* SimPool::Hold(const BlockId& id) {
  SimBlock* const block = FindOrAdd(id);
  ++block->holders;
  return block;
}

void SimPool::Release(SimBlock* block) {
  --block->holders;
  EraseIfIdle(block);
}

// ---- slots and frames

void SimPool::GiveSlot(int32_t slot) {
  slots_.at(slot).fill(kScribble);
  slots_.Give(slot);
}

int32_t SimPool::TakeSlot() {
  while (true) {
    const int32_t slot = slots_.TryTake();
    if (slot >= 0 || slots_leaving_ == 0 || !busy()) return slot;
    Await();
  }
}

int32_t SimPool::TakeFrame() {
  while (true) {
    const int32_t frame = frames_.TryTake();
    if (frame >= 0 || frames_leaving_ == 0 || !busy()) return frame;
    Await();
  }
}

int32_t SimPool::placed_slots() const {
  int32_t count = 0;
  for (const auto& [id, block] : blocks_) {
    for (const SimPlace& place : block->places) count += place.slot >= 0;
  }
  for (const auto& [id, fetch] : fetches_) {
    for (const Part& part : fetch.parts) count += part.slot >= 0;
  }
  return count;
}

int32_t SimPool::placed_frames() const {
  int32_t count = 0;
  for (const auto& [id, block] : blocks_) {
    for (const SimPlace& place : block->places) count += place.frame >= 0;
  }
  for (const auto& [id, fetch] : fetches_) {
    for (const Part& part : fetch.parts) count += part.frame >= 0;
  }
  return count;
}

std::string SimPool::WhereNot(const Belief& belief, bool exactly) const {
  std::map<BlockId, Belief::Places> held;
  for (const auto& [id, block] : blocks_) {
    for (size_t l = 0; l < block->places.size(); ++l) {
      const LayerId layer{options_.layer_begin + static_cast<int32_t>(l)};
      if (block->places[l].on_device) held[id].device.Add(layer);
      if (block->places[l].on_host) held[id].host.Add(layer);
    }
  }
  for (const auto& [id, places] : held) {
    const Belief::Places said = belief.Of(id);
    const LayerSet device = places.device - said.device, host = places.host - said.host;
    if (device.empty() && host.empty()) continue;
    return absl::StrCat("block ", IdText(id), " lies in layers ", device.ToString(), " of the device and ",
                        host.ToString(), " of the host, and nobody counts on it there");
  }
  for (const auto& [id, said] : belief.all()) {
    const LayerSet device = (said.device & layers_) - held[id].device, host = (said.host & layers_) - held[id].host;
    if (!exactly || (device.empty() && host.empty())) continue;
    return absl::StrCat("block ", IdText(id), " does not lie in layers ", device.ToString(), " of the device and ",
                        host.ToString(), " of the host, where the scheduler counts on it");
  }
  return std::string();
}

bool SimPool::FlipOne(Entropy& entropy) {
  std::map<BlockKey, std::pair<SimBlock*, SimPlace*>> whole;
  for (auto& [id, block] : blocks_) {
    for (size_t l = 0; l < block->places.size(); ++l) {
      if (block->places[l].frame_ready) {
        whole[KeyOf(block.get(), static_cast<int32_t>(l))] = {block.get(), &block->places[l]};
      }
    }
  }
  if (whole.empty()) return false;
  auto it = whole.begin();
  std::advance(it, Draw(entropy, 0, static_cast<int64_t>(whole.size()) - 1));
  const int64_t bit = Draw(entropy, 0, 8 * static_cast<int64_t>(stored_bytes()) - 1);
  Frame& frame = frames_.at(it->second.second->frame);
  frame.bytes[bit / 8] = static_cast<char>(frame.bytes[bit / 8] ^ (1 << bit % 8));
  ledger_.damaged.insert(it->second.first->id);
  return true;
}

// ---- copies

absl::Span<const std::byte> SimPool::PayloadOf(int32_t slot) const {
  return {reinterpret_cast<const std::byte*>(slots_.at(slot).data()), payload_bytes()};
}

void SimPool::Queue(SimBlock* block, int32_t layer, Kind kind) {
  SimPlace& place = block->places[layer];
  std::deque<Copy>& queue = kind == Kind::kIn ? in_ : out_;
  const absl::Time begin = queue.empty() ? now_ : std::max(now_, queue.back().done);
  Copy copy{kind, block, layer, place.slot, kind == Kind::kOffer ? -1 : place.frame, kind == Kind::kOffer, 0, {}};
  copy.done = begin + DrawTime(*entropy_, absl::Microseconds(1), options_.copy);
  if (copy.slot >= 0) ++place.slot_jobs;
  if (copy.frame >= 0) ++place.frame_jobs;
  queue.push_back(copy);
}

void SimPool::StartIn(SimBlock* block, int32_t layer, int32_t slot) {
  SimPlace& place = block->places[layer];
  if (options_.canary == Canary::kNone && (!place.frame_ready || place.slot >= 0)) {
    ledger_.Fail("a copy in begins from a frame that is not ready, or to a slot beside another");
  }
  place.slot = slot;
  place.slot_ready = false;
  Queue(block, layer, Kind::kIn);
}

bool SimPool::StartOut(SimBlock* block, int32_t layer) {
  SimPlace& place = block->places[layer];
  const int32_t frame = TakeFrame();
  if (frame < 0) return false;
  place.frame = frame;
  place.frame_ready = false;
  place.on_host = true;
  Queue(block, layer, Kind::kOut);
  return true;
}

void SimPool::OfferOnce(SimBlock* block, int32_t layer, int32_t index) {
  SimPlace& place = block->places[layer];
  if (place.offered || !place.slot_ready || tiers_ == nullptr || !tiers_->Wants()) return;
  place.offered = true;
  const bool on_its_way =
      !out_.empty() && out_.back().kind == Kind::kOut && out_.back().block == block && out_.back().layer == layer;
  if (!on_its_way) Queue(block, layer, Kind::kOffer);
  out_.back().offer = true;
  out_.back().index = index;
}

void SimPool::FinishNext() {
  std::deque<Copy>& queue = out_.empty() || (!in_.empty() && in_.front().done < out_.front().done) ? in_ : out_;
  const Copy copy = queue.front();
  queue.pop_front();
  now_ = std::max(now_, copy.done);
  ++ledger_.copies;
  Finish(copy);
}

void SimPool::Poll(absl::Time now) {
  while (busy()) {
    const absl::Time next = std::min(in_.empty() ? absl::InfiniteFuture() : in_.front().done,
                                     out_.empty() ? absl::InfiniteFuture() : out_.front().done);
    if (next > now) break;
    FinishNext();
  }
  now_ = std::max(now_, now);
  for (const uint64_t id : std::exchange(landed_, {})) {
    auto node = fetches_.extract(id);
    Land(node.mapped());
  }
}

void SimPool::Await() {
  CHECK_MSG(busy(), "waited for a copy, and none is under way");
  FinishNext();
}

void SimPool::Finish(const Copy& copy) {
  SimPlace& place = copy.block->places[copy.layer];
  if (copy.slot >= 0) --place.slot_jobs;
  if (copy.frame >= 0) --place.frame_jobs;
  const BlockKey key = KeyOf(copy.block, copy.layer);
  if (copy.kind == Kind::kOut) {
    Frame& frame = frames_.at(copy.frame);
    if (options_.canary != Canary::kStaleFrame || frame.bytes[0] == 0) {
      std::memcpy(frame.bytes.data() + kBlockHeaderBytes, slots_.at(copy.slot).data(), payload_bytes());
    }
    EncodeHeader(key, {reinterpret_cast<const std::byte*>(frame.bytes.data() + kBlockHeaderBytes), payload_bytes()},
                 frame.bytes.data());
    place.frame_ready = true;
  }
  if (copy.offer && tiers_ != nullptr) tiers_->Offer(key, copy.index, EncodeBlock(key, PayloadOf(copy.slot)));
  if (copy.kind == Kind::kIn) {
    const Frame& frame = frames_.at(copy.frame);
    const bool whole = options_.canary == Canary::kSkipsVerification ||
                       VerifyStored(key, {frame.bytes.data(), stored_bytes()}, payload_bytes()).ok();
    if (whole) std::memcpy(slots_.at(copy.slot).data(), frame.bytes.data() + kBlockHeaderBytes, payload_bytes());
    place.slot_ready = whole;
    place.corrupt = !whole;
    if (!whole) {
      place.on_device = place.on_host = place.streamed = false;
      ++ledger_.corrupt_frames;
    }
  }
  Settle(copy.block, copy.layer);
  EraseIfIdle(copy.block);
}

// ---- blocks of sequences

SimPool::Sealed SimPool::Seal(SimBlock* block, int32_t layer, int32_t slot, bool kept, int32_t index) {
  SimPlace& place = block->places[layer];
  const bool fresh = !place.placed();
  Sealed sealed = Sealed::kPlaced;
  if (place.slot < 0 && (fresh || kept)) {
    place.slot = std::exchange(slot, -1);
    place.slot_ready = true;
    place.corrupt = false;
  }
  if (kept) {
    place.on_device = true;
  } else if (fresh && place.frame >= 0) {
    place.on_host = true;  // a frame that was dropped and is still there
  } else if (fresh && !place.slot_ready) {
    place.on_device = true;  // a read that was dropped and is not there yet
  } else if (fresh) {
    sealed = StartOut(block, layer) ? Sealed::kCopiedOut : Sealed::kNoFrame;
  }
  if (fresh && sealed != Sealed::kNoFrame) OfferOnce(block, layer, index);
  if (options_.canary == Canary::kSwapsLayers && layer > 0) {
    const SimPlace& before = block->places[layer - 1];
    if (before.slot_ready && place.slot_ready) std::swap(slots_.at(before.slot), slots_.at(place.slot));
  }
  if (slot >= 0) GiveSlot(slot);
  Settle(block, layer);
  return sealed;
}

SimPool::Presence SimPool::Read(SimBlock* block, int32_t layer, bool must) {
  SimPlace& place = block->places[layer];
  if (Shown(block, layer) != nullptr) return Presence::kHere;
  const auto hold_for_turn = [&] {
    place.streamed = true;
    turns_[layer].push_back(block);
    Settle(block, layer);
  };
  if (place.slot >= 0) {  // on its way in, or held by a copy out
    if (!place.on_device && !place.streamed) hold_for_turn();
    return Shown(block, layer) != nullptr ? Presence::kHere : Presence::kComing;
  }
  if (!place.on_host) return place.corrupt ? Presence::kCorrupt : Presence::kMissing;
  const int32_t slot = must ? TakeSlot() : slots_.TryTake();
  if (slot < 0) return Presence::kNoSlot;
  ++ledger_.streamed_reads;
  StartIn(block, layer, slot);
  hold_for_turn();
  return Presence::kComing;
}

void SimPool::EndTurn(int32_t layer) {
  for (SimBlock* block : std::exchange(turns_[layer], {})) {
    block->places[layer].streamed = false;
    Settle(block, layer);
    EraseIfIdle(block);
  }
}

}  // namespace interlace::sim
