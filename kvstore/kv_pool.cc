#include "kvstore/kv_pool.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "kvstore/block_codec.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<KvPool>> KvPool::Create(const Options& options, Backend& backend, KvArena& arena,
                                                       FrameStore& frames, std::unique_ptr<TierStack> tiers,
                                                       Clock& clock, FaultPoints& faults) {
  std::unique_ptr<KvPool> pool(new KvPool(options, backend, arena, frames, std::move(tiers), clock));
  std::unique_ptr<DeviceBuffer> offered;
  if (!pool->tiers_->empty()) {
    ASSIGN_OR_RETURN(offered, backend.AllocateHost(int64_t{CopyQueue::kBatch} * options.payload_bytes));
  }
  DeviceCopies& copies = pool->link_ != nullptr ? *pool->link_ : backend.copies();
  pool->copies_ =
      std::make_unique<CopyQueue>(options.payload_bytes, copies, pool->tiers_.get(), std::move(offered), clock, faults);
  BlockFetches::Options fetch_options;
  fetch_options.heads = options.heads;
  fetch_options.payload_bytes = options.payload_bytes;
  fetch_options.staging_frames =
      static_cast<int32_t>(std::max<int64_t>(1, options.staging_bytes / FrameStride(options.payload_bytes)));
  fetch_options.timeout = options.fetch_timeout;
  ASSIGN_OR_RETURN(pool->fetches_, BlockFetches::Create(fetch_options, backend, *pool->tiers_, *pool->copies_, clock));
  return pool;
}

KvPool::KvPool(const Options& options, Backend& backend, KvArena& arena, FrameStore& frames,
               std::unique_ptr<TierStack> tiers, Clock& clock)
    : options_(options),
      layers_(LayerSet::Range(options.layer_begin, options.layer_end)),
      backend_(backend),
      clock_(clock),
      arena_(arena),
      frames_(frames),
      tiers_(std::move(tiers)),
      link_(options.link_bytes_per_second > 0
                ? std::make_unique<SlowLink>(backend.copies(), options.link_bytes_per_second, clock)
                : nullptr),
      turns_(options.layer_end - options.layer_begin) {}

KvPool::~KvPool() {
  if (fetches_ == nullptr) return;
  Reset();
  fetches_->Close();
  tiers_.reset();  // its fetches end first; copies of theirs that are under way need no tier
  copies_.reset();
  fetches_.reset();
}

void KvPool::Reset() {
  for (auto& [id, block] : blocks_) {
    block->holders.clear();
    for (BlockPlace& place : block->places) place.on_device = place.on_host = place.streamed = false;
  }
  for (std::vector<SharedBlock*>& turn : turns_) {
    for (SharedBlock* block : turn) --block->turns;
    turn.clear();
  }
  turn_ = -1;
  fetches_->Forget();
  fetched_.clear();
  Flush();
  std::vector<SharedBlock*> all;
  for (auto& [id, block] : blocks_) all.push_back(block.get());
  for (SharedBlock* block : all) ForLayers(block, layers_, [](LayerId) {});
  Drain();
  CHECK_MSG(blocks_.empty(), "a block outlived the copies that held it");
}

// ---- the table ----

SharedBlock* KvPool::Find(const BlockId& id) {
  const auto it = blocks_.find(id);
  return it == blocks_.end() ? nullptr : it->second.get();
}

SharedBlock* KvPool::FindOrAdd(const BlockId& id) {
  std::unique_ptr<SharedBlock>& block = blocks_[id];
  if (block == nullptr) {
    block = std::make_unique<SharedBlock>();
    block->id = id;
    block->places.resize(turns_.size());
  }
  return block.get();
}

template <typename Body>
void KvPool::ForLayers(SharedBlock* block, const LayerSet& layers, Body body) {
  if (block == nullptr) return;
  (layers & layers_).ForEach([&](LayerId layer) {
    body(layer);
    Settle(block, layer);
  });
  EraseIfIdle(block);
}

void KvPool::EraseIfIdle(SharedBlock* block) {
  if (block->live == 0 && block->turns == 0 && block->holders.empty()) blocks_.erase(BlockId(block->id));
}

void KvPool::Settle(SharedBlock* block, LayerId layer) {
  BlockPlace& place = PlaceOf(block, layer);
  if (place.slot && !place.on_device && !place.streamed && place.slot_jobs == 0) {
    place.slot = ArenaSlot();
    place.slot_ready = false;
  }
  if (place.frame && !place.on_host && place.frame_jobs == 0) {
    place.frame = HostFrame();
    place.frame_ready = false;
  }
  const bool slot_leaving = place.slot && !place.on_device && !place.streamed;
  const bool frame_leaving = place.frame && !place.on_host;
  slots_leaving_ += slot_leaving - place.slot_leaving;
  frames_leaving_ += frame_leaving - place.frame_leaving;
  place.slot_leaving = slot_leaving;
  place.frame_leaving = frame_leaving;
  const bool live = !place.empty();
  block->live += live - place.live;
  place.live = live;
  if (!live) place.offered = false;
  std::byte* const shown = place.slot_ready && (place.on_device || place.streamed) ? place.slot.data() : nullptr;
  if (shown == place.shown) return;
  place.shown = shown;
  const int32_t rank_layer = Value(layer) - options_.layer_begin;
  for (const BlockHolder& holder : block->holders) holder.pointers->SetShared(rank_layer, holder.index, shown);
}

SharedBlock* KvPool::Hold(const BlockId& id, BlockHolder holder) {
  SharedBlock* const block = FindOrAdd(id);
  block->holders.push_back(holder);
  return block;
}

void KvPool::Release(SharedBlock* block, BlockHolder holder) {
  const auto it = std::find(block->holders.begin(), block->holders.end(), holder);
  CHECK(it != block->holders.end());
  *it = block->holders.back();
  block->holders.pop_back();
  EraseIfIdle(block);
}

// ---- copies ----

void KvPool::Queue(SharedBlock* block, LayerId layer, CopyJob::Kind kind, CopyJob::Urgency urgency) {
  BlockPlace& place = PlaceOf(block, layer);
  CopyJob& job = unsent_.emplace_back();
  job.kind = kind;
  job.urgency = urgency;
  job.key = {block->id, layer, options_.heads};
  job.block = block;
  if (place.slot) {
    job.slot = place.slot.data();
    ++place.slot_jobs;
  }
  if (place.frame && kind != CopyJob::Kind::kOffer) {
    job.frame = place.frame.data();
    ++place.frame_jobs;
  }
}

void KvPool::StartIn(SharedBlock* block, LayerId layer, ArenaSlot slot, CopyJob::Urgency urgency) {
  BlockPlace& place = PlaceOf(block, layer);
  CHECK(place.frame_ready && !place.slot);
  place.slot = std::move(slot);
  place.slot_ready = false;
  Queue(block, layer, CopyJob::Kind::kIn, urgency);
}

// False: there is no frame.
bool KvPool::StartOut(SharedBlock* block, LayerId layer) {
  BlockPlace& place = PlaceOf(block, layer);
  CHECK(place.slot_ready && !place.frame);
  HostFrame frame = TakeFrame();
  if (!frame) return false;
  place.frame = std::move(frame);
  place.frame_ready = false;
  place.on_host = true;
  Queue(block, layer, CopyJob::Kind::kOut, CopyJob::Urgency::kOut);
  return true;
}

bool KvPool::WantsOffer() const {
  return !tiers_->empty() && (offers_under_way_ + 1) * options_.payload_bytes <= options_.offer_bytes &&
         tiers_->Wants();
}

void KvPool::OfferOnce(SharedBlock* block, LayerId layer, int32_t index) {
  BlockPlace& place = PlaceOf(block, layer);
  if (place.offered || !place.slot_ready || !WantsOffer()) return;
  place.offered = true;
  ++offers_under_way_;
  // A copy out that was asked for just now hands the block on when it is done with it.
  const bool on_its_way = !unsent_.empty() && unsent_.back().kind == CopyJob::Kind::kOut &&
                          unsent_.back().block == block && unsent_.back().key.layer == layer;
  if (!on_its_way) Queue(block, layer, CopyJob::Kind::kOffer, CopyJob::Urgency::kOffer);
  unsent_.back().offer = true;
  unsent_.back().index = index;
}

void KvPool::Flush() {
  if (unsent_.empty()) return;
  copies_->Submit(std::exchange(unsent_, {}), backend_.copies().Mark());
}

void KvPool::Poll() {
  done_.clear();
  if (copies_->Reap(&done_)) {
    for (CopyDone& done : done_) Finish(done);
  }
  for (BlockFetches::Arrived& arrived : fetches_->TakeArrived()) Land(arrived);
}

void KvPool::Await() {
  Flush();
  const absl::Time begin = clock_.Now();
  copies_->Await();
  waited_ += clock_.Now() - begin;
  Poll();
}

void KvPool::Drain() {
  do {
    Await();
  } while (copies_->Busy());
  Poll();
}

void KvPool::Finish(CopyDone& done) {
  const CopyJob& job = done.job;
  SharedBlock* const block = job.block;
  BlockPlace& place = PlaceOf(block, job.key.layer);
  if (job.slot != nullptr) --place.slot_jobs;
  if (job.frame != nullptr) --place.frame_jobs;
  if (job.offer) --offers_under_way_;
  if (job.kind == CopyJob::Kind::kIn) {
    place.slot_ready = done.status.ok();
    place.corrupt = absl::IsDataLoss(done.status);
    // The block is gone: no place of it is left in this layer.
    if (!done.status.ok()) place.on_device = place.on_host = place.streamed = false;
  }
  if (job.kind == CopyJob::Kind::kOut) {
    place.frame_ready = done.status.ok();
    if (!done.status.ok()) place.on_host = false;
  }
  Settle(block, job.key.layer);
  EraseIfIdle(block);
}

// ---- slots and frames ----

ArenaSlot KvPool::TakeSlot() {
  while (true) {
    ArenaSlot slot = arena_.TryTake();
    if (slot) return slot;
    if (slots_leaving_ == 0 && !EndFarthestTurn()) return slot;
    if (slots_leaving_ > 0) Await();
  }
}

HostFrame KvPool::TakeFrame() {
  while (true) {
    HostFrame frame = frames_.TryTake();
    if (frame || frames_leaving_ == 0) return frame;
    Await();
  }
}

void KvPool::EndTurn(LayerId layer) {
  EndTurnOf(Value(layer) - options_.layer_begin);
  if (Value(layer) + 1 == options_.layer_end) turn_ = -1;
}

bool KvPool::HoldsTurns() const {
  return std::any_of(turns_.begin(), turns_.end(), [](const auto& turn) { return !turn.empty(); });
}

void KvPool::EndTurnOf(int32_t rank_layer) {
  const LayerId layer{options_.layer_begin + rank_layer};
  for (SharedBlock* block : std::exchange(turns_[rank_layer], {})) {
    PlaceOf(block, layer).streamed = false;
    --block->turns;
    Settle(block, layer);
    EraseIfIdle(block);
  }
}

bool KvPool::EndFarthestTurn() {
  for (auto l = static_cast<int32_t>(turns_.size()) - 1; l > turn_; --l) {
    if (turns_[l].empty()) continue;
    EndTurnOf(l);
    return true;
  }
  return false;
}

KvPool::Presence KvPool::Read(SharedBlock* block, LayerId layer, bool must, bool* started) {
  *started = false;
  BlockPlace& place = PlaceOf(block, layer);
  if (place.shown != nullptr) return Presence::kHere;
  const auto hold_for_turn = [&] {
    place.streamed = true;
    ++block->turns;
    turns_[Value(layer) - options_.layer_begin].push_back(block);
    Settle(block, layer);
  };
  if (place.slot) {  // on its way in, or held by a copy out
    if (!place.on_device && !place.streamed) hold_for_turn();
    return place.shown != nullptr ? Presence::kHere : Presence::kComing;
  }
  if (!place.on_host) return place.corrupt ? Presence::kCorrupt : Presence::kMissing;
  ArenaSlot slot = must ? TakeSlot() : arena_.TryTake();
  if (!slot) return Presence::kNoSlot;
  StartIn(block, layer, std::move(slot), must ? CopyJob::Urgency::kNow : CopyJob::Urgency::kAhead);
  hold_for_turn();
  *started = true;
  return Presence::kComing;
}

KvPool::Sealed KvPool::Seal(SharedBlock* block, LayerId layer, ArenaSlot slot, bool kept, int32_t index) {
  BlockPlace& place = PlaceOf(block, layer);
  const bool fresh = !place.placed();
  Sealed sealed = Sealed::kPlaced;
  if (!place.slot && (fresh || kept)) {
    place.slot = std::move(slot);
    place.slot_ready = true;
    place.corrupt = false;
  }
  if (kept) {
    place.on_device = true;
  } else if (fresh && place.frame) {
    place.on_host = true;  // a frame that was dropped and is still there
  } else if (fresh && !place.slot_ready) {
    place.on_device = true;  // a read that was dropped and is not there yet
  } else if (fresh) {
    sealed = StartOut(block, layer) ? Sealed::kCopiedOut : Sealed::kNoFrame;
  }
  if (fresh && sealed != Sealed::kNoFrame) OfferOnce(block, layer, index);
  Settle(block, layer);
  return sealed;
}

// ---- moves ----

void KvPool::CopyOut(const BlockId& id, const LayerSet& layers) {
  SharedBlock* const block = Find(id);
  ForLayers(block, layers, [&](LayerId layer) {
    BlockPlace& place = PlaceOf(block, layer);
    if (!place.on_device || place.on_host) return;
    if (place.frame) {
      place.on_host = true;
    } else if (!StartOut(block, layer)) {
      LOG(WARNING) << "no host frame for a block that is to be copied out" << Field("block", IdText(id))
                   << Field("layer", Value(layer));
    }
  });
}

void KvPool::CopyIn(const BlockId& id, const LayerSet& layers) {
  SharedBlock* const block = Find(id);
  ForLayers(block, layers, [&](LayerId layer) {
    BlockPlace& place = PlaceOf(block, layer);
    if (place.on_device || !place.on_host) return;
    if (!place.slot) {
      ArenaSlot slot = TakeSlot();
      if (!slot) {
        LOG(WARNING) << "no slot for a block that is to be copied in" << Field("block", IdText(id))
                     << Field("layer", Value(layer));
        return;
      }
      if (!place.on_host) return;  // lost while the slot was waited for
      StartIn(block, layer, std::move(slot), CopyJob::Urgency::kAhead);
    }
    place.on_device = true;
  });
}

void KvPool::DropDevice(const BlockId& id, const LayerSet& layers) {
  fetches_->Drop(id, /*to_device=*/true, layers);
  SharedBlock* const block = Find(id);
  ForLayers(block, layers, [&](LayerId layer) { PlaceOf(block, layer).on_device = false; });
}

void KvPool::DropHost(const BlockId& id, const LayerSet& layers) {
  fetches_->Drop(id, /*to_device=*/false, layers);
  SharedBlock* const block = Find(id);
  ForLayers(block, layers, [&](LayerId layer) { PlaceOf(block, layer).on_host = false; });
}

void KvPool::Fetch(const BlockId& id, const LayerSet& layers, bool to_device, absl::Duration slack) {
  LayerSet arrived, failed;
  std::vector<BlockFetches::Part> parts;
  (layers & layers_).ForEach([&](LayerId layer) {
    if (SharedBlock* const block = Find(id); block != nullptr) {
      const BlockPlace& place = PlaceOf(block, layer);
      if (to_device ? place.on_device : place.on_host) return arrived.Add(layer);
    }
    BlockFetches::Part part;
    part.layer = layer;
    if (tiers_->empty()) {
      failed.Add(layer);
      return;
    }
    if (to_device) {
      part.slot = TakeSlot();
    } else {
      part.frame = TakeFrame();
    }
    if (!part.slot && !part.frame) {
      failed.Add(layer);
    } else {
      parts.push_back(std::move(part));
    }
  });
  fetches_->Start(id, to_device, arrived, failed, std::move(parts), slack);
}

void KvPool::Probe(RequestId request, std::vector<BlockId> blocks) { fetches_->Probe(request, std::move(blocks)); }

void KvPool::Land(BlockFetches::Arrived& arrived) {
  SharedBlock* const block = FindOrAdd(arrived.block);
  for (BlockFetches::Part& part : arrived.parts) {
    if (!part.status.ok() || !part.wanted) {
      arrived.failed.Add(part.layer);
      continue;
    }
    BlockPlace& place = PlaceOf(block, part.layer);
    if (arrived.to_device && !place.slot) {
      place.slot = std::move(part.slot);
      place.slot_ready = true;
    }
    if (!arrived.to_device && !place.frame) {
      place.frame = std::move(part.frame);
      place.frame_ready = true;
    }
    (arrived.to_device ? place.on_device : place.on_host) = true;
    place.offered = true;
    place.corrupt = false;
    arrived.arrived.Add(part.layer);
    Settle(block, part.layer);
  }
  fetched_.push_back({arrived.block, arrived.arrived, arrived.failed});
  EraseIfIdle(block);
}

}  // namespace interlace
