#include "kvstore/tier_stack.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/log.h"
#include "common/thread.h"
#include "kvstore/block_codec.h"
#include "kvstore/transfer_core.h"

namespace interlace {
namespace {

SharedBytes FlipOneBit(const SharedBytes& bytes, uint64_t draw) {
  if (bytes->empty()) return bytes;
  auto flipped = std::make_shared<std::string>(*bytes);
  const uint64_t bit = draw % (8 * flipped->size());
  (*flipped)[bit / 8] = static_cast<char>((*flipped)[bit / 8] ^ (1 << (bit % 8)));
  return flipped;
}

}  // namespace

// Runs the TransferCore: events of any thread go to the core under mutex_, and the core's actions are done one by one
// on one thread, without the lock. That thread alone touches frames and runs the callers' callbacks.
class TierStack::Worker {
 public:
  Worker(const Options& options, std::vector<std::unique_ptr<KvTier>> tiers, Clock& clock, FaultPoints& faults)
      : options_(options),
        clock_(clock),
        faults_(faults),
        tiers_(std::move(tiers)),
        core_({.tiers = static_cast<int>(tiers_.size()),
               .payload_bytes = options.payload_bytes,
               .queue_bytes = options.queue_bytes,
               .retry_after = options.retry_after}),
        thread_("kv-tiers", [this] { Run(); }) {}

  // The core stops first, so that what the tiers still answer while they close changes nothing.
  ~Worker() {
    Submit([](TransferCore& core, absl::Time, TransferActions* actions) { core.Stop(actions); }, /*last=*/true);
    thread_.Join();
    tiers_.clear();
  }

  bool empty() const { return tiers_.empty(); }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const std::unique_ptr<KvTier>& tier : tiers_) names.emplace_back(tier->name());
    return names;
  }

  uint32_t Wanting() const {
    uint32_t wanting = 0;
    for (size_t t = 0; t < tiers_.size(); ++t) wanting |= uint32_t{tiers_[t]->Wants()} << t;
    return wanting;
  }

  bool Wants() const {
    const uint32_t wanting = Wanting();
    if (wanting == 0) return false;
    const absl::Time now = clock_.Now();
    absl::MutexLock lock(&mutex_);
    if (core_.offered_bytes() + options_.payload_bytes + static_cast<int64_t>(kBlockHeaderBytes) >
        options_.queue_bytes) {
      return false;
    }
    for (size_t t = 0; t < tiers_.size(); ++t) {
      if ((wanting >> t & 1) != 0 && !core_.IsAway(static_cast<int>(t), now)) return true;
    }
    return false;
  }

  void Offer(const BlockKey& key, int32_t index, SharedBytes stored) {
    Submit([&, wanting = Wanting()](TransferCore& core, absl::Time now, TransferActions* actions) {
      core.Offer({key, index, std::move(stored)}, wanting, now, actions);
    });
  }

  void Fetch(const BlockKey& key, absl::Span<std::byte> frame, const FetchTimes& times, FetchDone done) {
    Submit([&](TransferCore& core, absl::Time now, TransferActions* actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      const FetchId id{++last_id_};
      fetches_[id] = {frame, std::move(done)};
      core.Fetch(id, key, times, now, actions);
    });
  }

  void CancelFetches() {
    Submit([](TransferCore& core, absl::Time now, TransferActions* actions) { core.CancelFetches(now, actions); });
  }

  void Probe(const std::vector<BlockId>& blocks, ProbeDone done) {
    std::vector<BlockKey> keys;
    for (const BlockId& block : blocks) {
      for (int32_t layer = options_.layer_begin; layer < options_.layer_end; ++layer) {
        keys.push_back({block, LayerId{layer}, options_.heads});
      }
    }
    Submit([&](TransferCore& core, absl::Time now, TransferActions* actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      const ProbeId id{++last_id_};
      probes_[id] = std::move(done);
      core.Probe(id, std::move(keys), options_.layer_end - options_.layer_begin, now, actions);
    });
  }

  std::vector<TierUsage> Usage() {
    std::vector<TierUsage> usage;
    for (const std::unique_ptr<KvTier>& tier : tiers_) usage.push_back(tier->Usage());
    return usage;
  }

  TierStats Stats() const {
    absl::MutexLock lock(&mutex_);
    return core_.stats();
  }

 private:
  struct OpenFetch {
    absl::Span<std::byte> frame;
    FetchDone done;
  };

  // Gives the core an event; `event(core, now, actions)` runs under the lock.
  template <typename Event>
  void Submit(Event event, bool last = false) {
    const absl::Time now = clock_.Now();
    absl::MutexLock lock(&mutex_);
    now_ = std::max(now, now_);
    event(core_, now_, &actions_);
    stopping_ |= last;
  }

  // ---- Thread: kv-tiers.

  void Run() {
    for (TransferActions actions = Next(); !actions.empty(); actions = Next()) {
      for (TransferAction& action : actions) std::visit([this](auto& a) { Do(a); }, action);
    }
  }

  // Waits for actions; meanwhile deadlines end fetches. Empty: closed and nothing is left to do.
  TransferActions Next() {
    TransferActions actions;
    while (true) {
      Submit([](TransferCore& core, absl::Time now, TransferActions* to) { core.OnTime(now, to); });
      absl::MutexLock lock(&mutex_);
      const absl::Time until = core_.NextDeadline();
      const auto due = [this, until]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        return stopping_ || !actions_.empty() || core_.NextDeadline() < until;
      };
      if (!due()) mutex_.AwaitWithTimeout(absl::Condition(&due), until - now_);
      actions.swap(actions_);
      if (!actions.empty() || stopping_) return actions;
    }
  }

  void Do(TierPut& put) {
    for (StoredBlock& block : put.blocks) {
      if (faults_.Fires("kv.flip_in_flight")) block.bytes = FlipOneBit(block.bytes, faults_.Draw());
    }
    tiers_[put.tier]->Put(std::move(put.blocks), [this, call = put.call](std::vector<absl::Status> statuses) {
      Submit([&](TransferCore& core, absl::Time now, TransferActions* actions) {
        core.OnPutAnswered(call, statuses, now, actions);
      });
    });
  }

  void Do(TierGet& get) {
    for (BlockKey& key : get.keys) key = Swapped(key);
    tiers_[get.tier]->Get(std::move(get.keys), [this, call = get.call](auto answers) {
      for (absl::StatusOr<SharedBytes>& answer : answers) {
        if (faults_.Fires("kv.read_lost")) answer = absl::NotFoundError("fault point kv.read_lost");
        if (answer.ok() && faults_.Fires("kv.flip_at_rest")) answer = FlipOneBit(*answer, faults_.Draw());
      }
      Submit([&](TransferCore& core, absl::Time now, TransferActions* actions) {
        core.OnGetAnswered(call, std::move(answers), now, actions);
      });
    });
  }

  void Do(TierProbe& probe) {
    tiers_[probe.tier]->Probe(std::move(probe.keys), [this, call = probe.call](std::vector<bool> held) {
      Submit([&](TransferCore& core, absl::Time now, TransferActions* actions) {
        core.OnProbeAnswered(call, held, now, actions);
      });
    });
  }

  void Do(TierDrop& drop) { tiers_[drop.tier]->Drop({drop.key}); }

  // Copies into each frame and verifies there.
  void Do(Land& land) {
    const size_t frame_bytes = kBlockHeaderBytes + static_cast<size_t>(options_.payload_bytes);
    absl::Status status;
    for (const FetchId fetch : land.fetches) {
      absl::Span<std::byte> frame;
      {
        absl::MutexLock lock(&mutex_);
        const auto it = fetches_.find(fetch);
        if (it == fetches_.end()) continue;
        frame = it->second.frame;
      }
      if (land.bytes->size() != frame_bytes || frame.size() < frame_bytes) {
        status = VerifyStored(land.key, *land.bytes, static_cast<size_t>(options_.payload_bytes));
        if (status.ok()) status = absl::DataLossError("the frame is too small for the block");
      } else {
        std::memcpy(frame.data(), land.bytes->data(), frame_bytes);
        status = VerifyStored(land.key, {reinterpret_cast<const char*>(frame.data()), frame_bytes},
                              static_cast<size_t>(options_.payload_bytes));
      }
      if (!status.ok()) break;
    }
    if (!status.ok()) LOG(WARNING) << "kv block corrupt" << status;
    Submit([&](TransferCore& core, absl::Time now, TransferActions* actions) {
      core.OnLanded(land.key, status, now, actions);
    });
  }

  void Do(FetchEnded& ended) {
    FetchDone done;
    {
      absl::MutexLock lock(&mutex_);
      auto node = fetches_.extract(ended.fetch);
      done = std::move(node.mapped().done);
    }
    done(std::move(ended.status));
  }

  void Do(ProbeEnded& ended) {
    ProbeDone done;
    {
      absl::MutexLock lock(&mutex_);
      auto node = probes_.extract(ended.probe);
      done = std::move(node.mapped());
    }
    done(ended.blocks);
  }

  // The key that a fault point makes the tier read instead.
  BlockKey Swapped(BlockKey key) {
    const BlockKey asked = key;
    if (faults_.Fires("kv.swap_layer")) {
      const int32_t layer = Value(key.layer);
      if (layer + 1 < options_.layer_end) {
        key.layer = LayerId{layer + 1};
      } else if (layer > options_.layer_begin) {
        key.layer = LayerId{layer - 1};
      }
    }
    const auto other = last_read_.find(asked.layer);
    if (other != last_read_.end() && other->second != asked && faults_.Fires("kv.swap_request")) key = other->second;
    last_read_[asked.layer] = asked;
    return key;
  }

  const Options options_;
  Clock& clock_;
  FaultPoints& faults_;
  std::vector<std::unique_ptr<KvTier>> tiers_;
  absl::flat_hash_map<LayerId, BlockKey> last_read_;  // of the thread; for kv.swap_request

  mutable absl::Mutex mutex_;
  TransferCore core_ ABSL_GUARDED_BY(mutex_);
  TransferActions actions_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<FetchId, OpenFetch> fetches_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<ProbeId, ProbeDone> probes_ ABSL_GUARDED_BY(mutex_);
  absl::Time now_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // of the last event
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

TierStack::TierStack(const Options& options, std::vector<std::unique_ptr<KvTier>> tiers, Clock& clock,
                     FaultPoints& faults)
    : worker_(std::make_unique<Worker>(options, std::move(tiers), clock, faults)) {}
TierStack::~TierStack() = default;
bool TierStack::empty() const { return worker_->empty(); }
std::vector<std::string> TierStack::names() const { return worker_->names(); }
bool TierStack::Wants() const { return worker_->Wants(); }
void TierStack::Offer(const BlockKey& key, int32_t index, SharedBytes stored) {
  worker_->Offer(key, index, std::move(stored));
}
void TierStack::Fetch(const BlockKey& key, absl::Span<std::byte> frame, const FetchTimes& times, FetchDone done) {
  worker_->Fetch(key, frame, times, std::move(done));
}
void TierStack::CancelFetches() { worker_->CancelFetches(); }
void TierStack::Probe(std::vector<BlockId> blocks, ProbeDone done) { worker_->Probe(blocks, std::move(done)); }
std::vector<TierUsage> TierStack::Usage() { return worker_->Usage(); }
TierStats TierStack::Stats() const { return worker_->Stats(); }

}  // namespace interlace
