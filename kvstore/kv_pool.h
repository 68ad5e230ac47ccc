// KvPool: the one table of a rank's sealed blocks: where each of them lies on the device and on the host.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "common/clock.h"
#include "common/fault.h"
#include "kernels/backend.h"
#include "kvstore/block_fetches.h"
#include "kvstore/block_id.h"
#include "kvstore/block_pointers.h"
#include "kvstore/copy_queue.h"
#include "kvstore/frame_store.h"
#include "kvstore/kv_arena.h"
#include "kvstore/layer_set.h"
#include "kvstore/slow_link.h"
#include "kvstore/tier_stack.h"

namespace interlace {

// Where one sealed block of one layer lies. `on_device` and `on_host` are the places that the scheduler counts; slot
// and frame are what is held in fact, which may outlast a drop until copies from them are done, and which a copy or a
// turn of the layer may hold besides.
struct BlockPlace {
  ArenaSlot slot;
  HostFrame frame;
  bool on_device = false;
  bool on_host = false;
  bool slot_ready = false;   // false while a copy into the slot is under way
  bool frame_ready = false;  // false while a copy into the frame is under way
  bool streamed = false;     // the slot is held for the layer's turn
  bool offered = false;      // to the tiers, or they gave it
  bool corrupt = false;      // its last copy failed verification
  uint8_t slot_jobs = 0;     // copies under way from or to the slot
  uint8_t frame_jobs = 0;
  bool slot_leaving = false;  // held by copies alone
  bool frame_leaving = false;
  bool live = false;           // counted in SharedBlock::live
  std::byte* shown = nullptr;  // what the holders' pointers say
  bool placed() const { return on_device || on_host; }
  bool empty() const { return !slot && !frame; }
};

// A sequence that holds a block: it is the sequence's block number `index`.
struct BlockHolder {
  BlockPointers* pointers = nullptr;
  int32_t index = 0;
  friend bool operator==(const BlockHolder&, const BlockHolder&) = default;
};

struct SharedBlock {
  BlockId id;
  std::vector<BlockPlace> places;  // [layers of the rank]
  absl::InlinedVector<BlockHolder, 2> holders;
  int32_t live = 0;   // places that are not empty
  int32_t turns = 0;  // layers whose turn it was held for and that have not ended it
};

// Shared by all sequences of the rank. It obeys: what is on the device or the host follows from the calls alone; there
// is no eviction. Copies run beside (CopyQueue); Poll takes note of what they did. Layers are the model's.
// Owned by Rank; thread: runner, except OnAnswers' function.
class KvPool {
 public:
  struct Options {
    int32_t layer_begin = 0;  // the rank's
    int32_t layer_end = 0;
    HeadRange heads;
    int64_t payload_bytes = 0;
    absl::Duration fetch_timeout = absl::Seconds(2);
    int64_t staging_bytes = int64_t{4} << 20;  // of frames through which blocks come from the tiers to the device
    int64_t offer_bytes = int64_t{64} << 20;   // of blocks that wait to be handed to the tiers
    int64_t link_bytes_per_second = 0;         // of an emulated link between device and host; 0: none
  };
  // `tiers` has no tiers where none are configured. Arena, frames and backend outlive the pool.
  static absl::StatusOr<std::unique_ptr<KvPool>> Create(const Options& options, Backend& backend, KvArena& arena,
                                                        FrameStore& frames, std::unique_ptr<TierStack> tiers,
                                                        Clock& clock, FaultPoints& faults);
  ~KvPool();  // waits for the copies; what is held is given back

  // ---- what plans say ----
  // In the layers of this rank. A move of a place that does not exist does nothing.
  void CopyOut(const BlockId& id, const LayerSet& layers);
  void CopyIn(const BlockId& id, const LayerSet& layers);
  void DropDevice(const BlockId& id, const LayerSet& layers);
  void DropHost(const BlockId& id, const LayerSet& layers);
  void Fetch(const BlockId& id, const LayerSet& layers, bool to_device, absl::Duration slack = absl::ZeroDuration());
  void Probe(RequestId request, std::vector<BlockId> blocks);

  // ---- blocks of sequences ----
  // The sequence holds the block from now on: pointers' block number `index`. The address is good until Release.
  SharedBlock* Hold(const BlockId& id, BlockHolder holder);
  void Release(SharedBlock* block, BlockHolder holder);
  enum class Sealed : uint8_t { kPlaced, kCopiedOut, kNoFrame };
  // The slot's bytes are final. If the block has a place in this layer already, the slot is free; otherwise it becomes
  // the device place where the layer is kept, else it goes to a host frame and is free then. kNoFrame: nowhere to go.
  // Requires: the block is held.
  Sealed Seal(SharedBlock* block, LayerId layer, ArenaSlot slot, bool kept, int32_t index);

  // ---- a layer's turn ----
  enum class Presence : uint8_t { kHere, kComing, kMissing, kCorrupt, kNoSlot };
  // Makes the block be on the device until the end of the layer's turn; *started: a copy of it was started now. With
  // `must`, a slot is waited for; without, it is taken only if one is free.
  Presence Read(SharedBlock* block, LayerId layer, bool must, bool* started);
  // What was read for this layer stays until its turn ends, and what was read for layers before it, too.
  void BeginTurn(LayerId layer) { turn_ = Value(layer) - options_.layer_begin; }
  // Slots that were held for the turn of this layer are free, once ops queued so far have read them. After the last
  // layer's turn all that is held for turns is read ahead.
  void EndTurn(LayerId layer);
  // Whether slots are held for turns.
  bool HoldsTurns() const;
  // A free slot, waiting for copies if need be. Turns that have not begun give their slots back for it, the farthest
  // first: what was read ahead is read again. Empty: there is none.
  ArenaSlot TakeSlot();
  // Hands the copies that were asked for to the queue. Call it before the step goes on to compute.
  void Flush();
  // Takes note of copies and fetches that are done.
  void Poll();
  // Poll, after waiting for a copy if any is under way.
  void Await();

  // Await until no copy is under way.
  void Drain();

  // ---- answers ----
  using Fetched = BlockFetches::Fetched;
  using Probed = BlockFetches::Probed;
  // Since the last call.
  std::vector<Fetched> TakeFetched() { return std::exchange(fetched_, {}); }
  std::vector<Probed> TakeProbed() { return fetches_->TakeProbed(); }
  // `wake` runs on any thread when one of these has something to give.
  void OnAnswers(absl::AnyInvocable<void()> wake) { fetches_->OnAnswers(std::move(wake)); }

  // A new epoch: everything on device and host is forgotten; no sequence holds a block any more.
  void Reset();

  KvArena& arena() { return arena_; }
  FrameStore& frames() { return frames_; }
  TierStack& tiers() { return *tiers_; }
  // How long the runner has waited for copies, in all: of reads, and of slots and frames that were about to be free.
  absl::Duration waited() const { return waited_; }
  CopyStats copy_stats() const { return copies_->Stats(); }
  size_t blocks() const { return blocks_.size(); }
  // Whether the scheduler may count on the block in this layer; and its address, null while it is not on the device.
  bool Placed(const SharedBlock* block, LayerId layer) const {
    return block->places[Value(layer) - options_.layer_begin].placed();
  }
  std::byte* AddressOf(const SharedBlock* block, int32_t rank_layer) const { return block->places[rank_layer].shown; }

 private:
  KvPool(const Options& options, Backend& backend, KvArena& arena, FrameStore& frames, std::unique_ptr<TierStack> tiers,
         Clock& clock);
  SharedBlock* Find(const BlockId& id);  // null: unknown
  SharedBlock* FindOrAdd(const BlockId& id);
  BlockPlace& PlaceOf(SharedBlock* block, LayerId layer) { return block->places[Value(layer) - options_.layer_begin]; }
  // Calls body(layer) for layers of the set that are the rank's, then lets the block go if nothing is left of it.
  template <typename Body>
  void ForLayers(SharedBlock* block, const LayerSet& layers, Body body);
  void Queue(SharedBlock* block, LayerId layer, CopyJob::Kind kind, CopyJob::Urgency urgency);
  void StartIn(SharedBlock* block, LayerId layer, ArenaSlot slot, CopyJob::Urgency urgency);
  bool StartOut(SharedBlock* block, LayerId layer);
  void OfferOnce(SharedBlock* block, LayerId layer, int32_t index);
  bool WantsOffer() const;
  void Finish(CopyDone& done);
  void Land(BlockFetches::Arrived& arrived);
  // Gives back what nothing holds any more, and tells the holders where the block is.
  void Settle(SharedBlock* block, LayerId layer);
  void EraseIfIdle(SharedBlock* block);
  HostFrame TakeFrame();
  void EndTurnOf(int32_t rank_layer);
  bool EndFarthestTurn();  // false: none lies ahead of the present one

  const Options options_;
  const LayerSet layers_;  // the rank's
  Backend& backend_;
  Clock& clock_;
  KvArena& arena_;
  FrameStore& frames_;
  std::unique_ptr<TierStack> tiers_;
  const std::unique_ptr<SlowLink> link_;  // null: none is emulated
  std::unique_ptr<CopyQueue> copies_;
  std::unique_ptr<BlockFetches> fetches_;
  absl::flat_hash_map<BlockId, std::unique_ptr<SharedBlock>> blocks_;
  std::vector<std::vector<SharedBlock*>> turns_;  // [layers of the rank] blocks with a slot held for the turn
  int32_t turn_ = -1;                             // the layer of the rank whose turn it is; -1: none's
  std::vector<CopyJob> unsent_;
  std::vector<CopyDone> done_;  // reused
  std::vector<Fetched> fetched_;
  int32_t slots_leaving_ = 0, frames_leaving_ = 0;
  int64_t offers_under_way_ = 0;
  absl::Duration waited_;
};

}  // namespace interlace
