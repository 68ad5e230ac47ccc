// A TransferEngine over scripted tiers and a clock that stands still, for tests.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/fault.h"
#include "kvstore/transfer_engine.h"
#include "tests/kvstore/blocks.h"
#include "tests/kvstore/scripted_tier.h"

namespace interlace {

inline constexpr size_t kRigPayload = 128;

// Slots stand for device memory. The clock may be advanced while the engine's mover waits.
class EngineRig {
 public:
  struct Options {
    int tiers = 1;
    int blocks_in_chunk = 4;
    int chunks_in_flight = 100;
    std::string faults;
    uint64_t fault_seed = 1;
  };
  EngineRig() : EngineRig(Options{}) {}
  explicit EngineRig(const Options& options) {
    faults = *FaultPoints::Parse(options.faults, options.fault_seed);
    std::vector<std::unique_ptr<KvTier>> owned;
    for (int t = 0; t < options.tiers; ++t) {
      owned.push_back(std::make_unique<ScriptedTier>(absl::StrCat("tier", t)));
      tiers.push_back(static_cast<ScriptedTier*>(owned.back().get()));
    }
    engine = std::make_unique<TransferEngine>(
        TransferEngine::Options{.payload_bytes = kRigPayload,
                                .chunk_bytes = static_cast<int64_t>(kRigPayload) * options.blocks_in_chunk,
                                .chunks_in_flight = options.chunks_in_flight},
        std::move(owned), clock, *faults);
  }
  ~EngineRig() {
    for (ScriptedTier* tier : tiers) tier->Release();
  }

  using Memory = std::vector<std::vector<std::byte>>;
  // One slot for each key, with the block's bytes.
  static Memory Filled(const std::vector<BlockKey>& keys) {
    Memory slots;
    for (const BlockKey& key : keys) slots.push_back(Payload(key, kRigPayload));
    return slots;
  }
  static Memory Blank(size_t count, int fill = 0xab) {
    return Memory(count, std::vector<std::byte>(kRigPayload, static_cast<std::byte>(fill)));
  }

  TransferTicket StartWrite(const std::vector<BlockKey>& keys, const Memory& from,
                            absl::Time deadline = absl::InfiniteFuture()) {
    std::vector<KvWrite> writes;
    for (size_t i = 0; i < keys.size(); ++i) writes.push_back({keys[i], from[i].data()});
    return engine->Write(std::move(writes), deadline);
  }
  TransferTicket StartWrite(const std::vector<BlockKey>&, Memory&&, absl::Time = {}) = delete;  // it must live on
  TransferTicket StartRead(const std::vector<BlockKey>& keys, Memory& to,
                           absl::Time deadline = absl::InfiniteFuture()) {
    std::vector<KvRead> reads;
    for (size_t i = 0; i < keys.size(); ++i) reads.push_back({keys[i], to[i].data()});
    return engine->Read(std::move(reads), deadline);
  }
  std::vector<MoveResult> Write(const std::vector<BlockKey>& keys) {
    const Memory from = Filled(keys);
    return StartWrite(keys, from).Wait(absl::InfiniteFuture());
  }
  std::vector<MoveResult> Read(const std::vector<BlockKey>& keys, Memory& to) {
    return StartRead(keys, to).Wait(absl::InfiniteFuture());
  }
  ScriptedTier& tier(int t = 0) { return *tiers[t]; }

  ManualClock clock;
  std::unique_ptr<FaultPoints> faults;
  std::vector<ScriptedTier*> tiers;  // owned by the engine
  std::unique_ptr<TransferEngine> engine;
};

}  // namespace interlace
