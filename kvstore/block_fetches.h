// BlockFetches: blocks on their way from the tiers below, and the answers about them.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "kernels/backend.h"
#include "kvstore/block_id.h"
#include "kvstore/copy_queue.h"
#include "kvstore/frame_store.h"
#include "kvstore/kv_arena.h"
#include "kvstore/layer_set.h"
#include "kvstore/tier_stack.h"

namespace interlace {

// A fetch brings one block in some layers, each into a frame of the host or, through a frame of a small staging store,
// into a slot. It holds these until it is done, so that a fetch that is given up harms nobody. Answers come as a whole:
// one for each fetch. Owned by KvPool; thread: runner, besides what the tiers and the copies call back.
class BlockFetches {
 public:
  struct Options {
    HeadRange heads;
    int64_t payload_bytes = 0;
    int32_t staging_frames = 0;
    absl::Duration timeout;
  };
  static absl::StatusOr<std::unique_ptr<BlockFetches>> Create(const Options& options, Backend& backend,
                                                              TierStack& tiers, CopyQueue& copies, Clock& clock);
  // The tiers call back no more, and copies are done.
  ~BlockFetches() = default;

  // One layer of a fetch. It has a frame, or a slot, or neither: then it has failed.
  struct Part {
    LayerId layer{};
    HostFrame frame;
    ArenaSlot slot;
    bool wanted = true;  // false: dropped meanwhile
    absl::Status status;
  };
  // `slack`: until the request that wants the block is late.
  void Start(const BlockId& block, bool to_device, LayerSet arrived, LayerSet failed, std::vector<Part> parts,
             absl::Duration slack);
  // A drop of the place that the fetch would make, in these layers.
  void Drop(const BlockId& block, bool to_device, const LayerSet& layers);
  // Fetches that are done, each once.
  struct Arrived {
    BlockId block;
    bool to_device = false;
    LayerSet arrived;  // layers that had their place before, or failed, when the fetch began
    LayerSet failed;
    std::vector<Part> parts;
  };
  std::vector<Arrived> TakeArrived();

  struct Fetched {
    BlockId block;
    LayerSet arrived;
    LayerSet failed;
  };
  struct Probed {
    RequestId request{};
    int32_t blocks = 0;
  };
  void Probe(RequestId request, std::vector<BlockId> blocks);
  std::vector<Probed> TakeProbed();
  // `wake` runs on any thread, several at once; the former one does not any more when this returns.
  void OnAnswers(absl::AnyInvocable<void()> wake);

  // Nobody wants what is under way any more: it ends, is not answered, and holds no frame or slot when this returns.
  void Forget();
  // Nothing is started from now on: the tiers are about to go.
  void Close();

 private:
  struct Fetch {
    BlockId block;
    bool to_device = false;
    bool forgotten = false;
    LayerSet arrived, failed;
    std::vector<Part> parts;
  };
  struct Waiting {  // for a staging frame
    uint64_t fetch = 0;
    size_t part = 0;
    BlockKey key;
    std::byte* slot = nullptr;
    OpFence fence;
    absl::Time due;
  };
  struct Landed {
    uint64_t fetch = 0;
    size_t part = 0;
    absl::Status status;
  };

  BlockFetches(const Options& options, Backend& backend, TierStack& tiers, CopyQueue& copies, Clock& clock)
      : options_(options), backend_(backend), tiers_(tiers), copies_(copies), clock_(clock) {}
  // Starts those that wait while there are staging frames. Any thread.
  void StartWaiting();
  void OnStaged(Waiting waiting, std::byte* frame, absl::Status status);
  // The part is done. `frame`: of the staging store, free again. Any thread.
  void OnLanded(uint64_t fetch, size_t part, std::byte* frame, absl::Status status);

  const Options options_;
  Backend& backend_;
  TierStack& tiers_;
  CopyQueue& copies_;
  Clock& clock_;
  std::unique_ptr<DeviceBuffer> staging_;
  absl::flat_hash_map<uint64_t, Fetch> fetches_;  // thread: runner
  uint64_t last_ = 0;
  uint64_t probe_epoch_ = 0;  // thread: runner

  // Shared with callbacks of probes, which may come late.
  struct Answers {
    absl::Mutex mutex;
    std::vector<std::pair<uint64_t, Probed>> probed;   // protected by mutex; with the epoch of the question
    std::vector<Landed> landed;                        // protected by mutex
    absl::flat_hash_map<uint64_t, size_t> open;        // protected by mutex; parts of a fetch that are not done
    std::deque<Waiting> waiting;                       // protected by mutex; as they are due
    std::vector<std::byte*> staging_free;              // protected by mutex
    bool closed = false;                               // protected by mutex
    std::shared_ptr<absl::AnyInvocable<void()>> wake;  // protected by mutex
    int32_t waking = 0;                                // protected by mutex; calls of it under way
  };
  void Wake();
  Answers answers_;
};

}  // namespace interlace
