// SimPool: the KvPool of a simulated rank, with memory of numbers and copies that take virtual time.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "kvstore/block_codec.h"
#include "kvstore/layer_set.h"
#include "proto/plan/step_plan.h"
#include "tests/sim/belief.h"
#include "tests/sim/chance.h"
#include "tests/sim/digest_model.h"
#include "tests/sim/ledger.h"
#include "tests/sim/scenario.h"
#include "tests/sim/sim_tiers.h"

namespace interlace::sim {

// Numbered pieces of memory. What is given back is taken first, so that a piece that is still in use elsewhere is soon
// overwritten.
template <typename Piece>
class Memory {
 public:
  explicit Memory(int32_t count) : pieces_(count) {
    for (int32_t i = count; i-- > 0;) free_.push_back(i);
  }
  int32_t TryTake() {  // -1: there is none
    if (free_.empty()) return -1;
    const int32_t piece = free_.back();
    free_.pop_back();
    return piece;
  }
  void Give(int32_t piece) { free_.push_back(piece); }
  Piece& at(int32_t piece) { return pieces_[piece]; }
  const Piece& at(int32_t piece) const { return pieces_[piece]; }
  int32_t size() const { return static_cast<int32_t>(pieces_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t used() const { return size() - free(); }

 private:
  std::vector<Piece> pieces_;
  std::vector<int32_t> free_;
};

// The stored form of a block: a real header, and the numbers.
struct Frame {
  std::array<char, kBlockHeaderBytes + sizeof(Extent)> bytes{};
};

// Where one sealed block of one layer lies; the fields mean what they mean in BlockPlace of kvstore/kv_pool.h.
struct SimPlace {
  int32_t slot = -1, frame = -1;
  bool on_device = false, on_host = false;
  bool slot_ready = false, frame_ready = false;
  bool streamed = false, offered = false, corrupt = false;
  uint8_t slot_jobs = 0, frame_jobs = 0;
  bool slot_leaving = false, frame_leaving = false, live = false;
  bool placed() const { return on_device || on_host; }
};

struct SimBlock {
  BlockId id;
  std::vector<SimPlace> places;  // [layers of the rank]
  int32_t holders = 0;
  int32_t live = 0;  // places that are not empty
};

// A port of KvPool: the same decisions at the same moments, the copies a queue in each direction whose jobs end at
// drawn times. Slots and frames hold real contents, so that a copy that runs too late or a piece that is given away too
// early shows in what is read. Time is the caller's: it only moves forward, and waiting for a copy moves it. Owned by
// SimPager. Thread: the simulation's.
class SimPool {
 public:
  struct Options {
    int32_t layer_begin = 0, layer_end = 0;
    int32_t block_tokens = 0;
    int32_t slots = 0, frames = 0;
    absl::Duration copy;  // of one extent, at most
    absl::Duration fetch_timeout = absl::Seconds(2);
    HeadRange heads;
    Canary canary = Canary::kNone;
  };
  // `tiers` may be null. `wake` runs when tiers have answered.
  SimPool(const Options& options, std::unique_ptr<Entropy> entropy, SimTierStack* tiers, EventLoop& loop,
          Ledger& ledger, absl::AnyInvocable<void()> wake);
  ~SimPool();

  // ---- time: of the step that is being executed
  void Poll(absl::Time now);  // copies that are done by then, and fetches that have landed
  absl::Time now() const { return now_; }
  void Await();  // until one more copy is done. Requires: one is under way.
  bool busy() const { return !in_.empty() || !out_.empty(); }

  // ---- what plans say
  void CopyOut(const BlockId& id, const LayerSet& layers);
  void CopyIn(const BlockId& id, const LayerSet& layers);
  void DropDevice(const BlockId& id, const LayerSet& layers);
  void DropHost(const BlockId& id, const LayerSet& layers);
  void Fetch(const BlockId& id, const LayerSet& layers, bool to_device, absl::Duration slack);
  void Probe(RequestId request, const std::vector<BlockId>& blocks);

  // ---- blocks of sequences; layers count from the rank's first
  SimBlock* Hold(const BlockId& id);
  void Release(SimBlock* block);
  enum class Sealed : uint8_t { kPlaced, kCopiedOut, kNoFrame };
  Sealed Seal(SimBlock* block, int32_t layer, int32_t slot, bool kept, int32_t index);
  enum class Presence : uint8_t { kHere, kComing, kMissing, kCorrupt, kNoSlot };
  Presence Read(SimBlock* block, int32_t layer, bool must);
  void EndTurn(int32_t layer);
  int32_t TakeSlot();  // -1: there is none
  void GiveSlot(int32_t slot);

  std::vector<FetchAnswer> TakeFetched() { return std::exchange(fetched_, {}); }
  std::vector<ProbeAnswer> TakeProbed() { return std::exchange(probed_, {}); }
  bool fetching() const { return !fetches_.empty(); }
  void Reset();

  Extent& slot(int32_t slot) { return slots_.at(slot); }
  // Null while the block is not on the device.
  const Extent* Shown(const SimBlock* block, int32_t layer) const {
    const SimPlace& place = block->places[layer];
    return place.slot_ready && (place.on_device || place.streamed) ? &slots_.at(place.slot) : nullptr;
  }
  const Memory<Extent>& slots() const { return slots_; }
  const Memory<Frame>& frames() const { return frames_; }
  size_t blocks() const { return blocks_.size(); }
  // Slots and frames of places that a plan made, and of fetches.
  int32_t placed_slots() const;
  int32_t placed_frames() const;
  // The first place that is not where it should be, in words; empty: there is none. With `exactly`, nothing is missing.
  std::string WhereNot(const Belief& belief, bool exactly) const;
  // A bit of a frame that holds a whole block flips; false if there is none.
  bool FlipOne(Entropy& entropy);

 private:
  enum class Kind : uint8_t { kIn, kOut, kOffer };
  struct Copy {
    Kind kind;
    SimBlock* block;
    int32_t layer, slot, frame;
    bool offer;
    int32_t index;
    absl::Time done;
  };
  struct Part {
    int32_t layer;
    int32_t slot = -1, frame = -1;
    bool wanted = true;
    absl::Status status;
    SharedBytes bytes;
  };
  struct OpenFetch {
    BlockId block;
    bool to_device = false, forgotten = false;
    LayerSet arrived, failed;
    std::vector<Part> parts;
    size_t open = 0;
  };

  SimBlock* Find(const BlockId& id);
  SimBlock* FindOrAdd(const BlockId& id);
  template <typename Body>
  void ForLayers(SimBlock* block, const LayerSet& layers, Body body);
  void Queue(SimBlock* block, int32_t layer, Kind kind);
  void StartIn(SimBlock* block, int32_t layer, int32_t slot);
  bool StartOut(SimBlock* block, int32_t layer);
  void OfferOnce(SimBlock* block, int32_t layer, int32_t index);
  void FinishNext();  // of all copies under way, the one that is done first
  void Finish(const Copy& copy);
  void Land(OpenFetch& fetch);
  void LandPart(OpenFetch& fetch, Part& part);
  void OnPart(uint64_t fetch, size_t part, absl::Status status, SharedBytes bytes);
  void Settle(SimBlock* block, int32_t layer);
  void EraseIfIdle(SimBlock* block);
  int32_t TakeFrame();
  void GiveFrame(int32_t frame) { frames_.Give(frame); }
  BlockKey KeyOf(const SimBlock* block, int32_t layer) const {
    return {block->id, LayerId{options_.layer_begin + layer}, options_.heads};
  }
  size_t payload_bytes() const { return sizeof(uint64_t) * static_cast<size_t>(options_.block_tokens); }
  size_t stored_bytes() const { return kBlockHeaderBytes + payload_bytes(); }
  absl::Span<const std::byte> PayloadOf(int32_t slot) const;

  const Options options_;
  const LayerSet layers_;
  const std::unique_ptr<Entropy> entropy_;
  SimTierStack* const tiers_;
  EventLoop& loop_;
  Ledger& ledger_;
  absl::AnyInvocable<void()> wake_;
  absl::Time now_ = absl::InfinitePast();
  Memory<Extent> slots_;
  Memory<Frame> frames_;
  absl::flat_hash_map<BlockId, std::unique_ptr<SimBlock>> blocks_;
  std::vector<std::vector<SimBlock*>> turns_;  // [layers] blocks with a slot held for the turn
  std::deque<Copy> in_, out_;
  int32_t slots_leaving_ = 0, frames_leaving_ = 0;
  std::map<uint64_t, OpenFetch> fetches_;
  std::vector<uint64_t> landed_;
  uint64_t last_fetch_ = 0, probe_epoch_ = 0;
  std::vector<FetchAnswer> fetched_;
  std::vector<ProbeAnswer> probed_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

template <typename Body>
void SimPool::ForLayers(SimBlock* block, const LayerSet& layers, Body body) {
  if (block == nullptr) return;
  (layers & layers_).ForEach([&](LayerId id) {
    const int32_t layer = Value(id) - options_.layer_begin;
    body(block->places[layer], layer);
    Settle(block, layer);
  });
  EraseIfIdle(block);
}

}  // namespace interlace::sim
