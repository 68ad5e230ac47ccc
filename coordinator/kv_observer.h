// KvObserver: who is told which whole blocks a replica holds, and in which memory.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/served_adapter.h"
#include "kvstore/block_id.h"

namespace interlace {

// Where a block is held: every layer that sees all positions lies somewhere (every layer, of a model that has none
// such; layers with a window need it near the end of a prefix alone). kDevice: what lies of it lies in slots of the
// device. kHost: some of it lies in host memory alone.
enum class KvMedium : uint8_t { kDevice, kHost };

// A block that a sequence has just filled, or that is about to be fetched for one. `tokens` are its own, not those
// before it.
struct KvBlockSeen {
  BlockId id;
  BlockId parent;  // zero: it is the first of its chain
  absl::Span<const int32_t> tokens;
  absl::string_view salt;                                  // of the tenant
  std::shared_ptr<const ServedAdapter> adapter = nullptr;  // that it is computed with; null: none
};

// Told by the BlockDirectory, on the replica's thread, as of the plan being made; returns at once and keeps none of the
// views. The life of a block is OnSealed, then any number of OnStored and OnRemoved, then OnErased; there may be
// another life after it. It lies in one memory or in none: each change of that is one call, so OnStored where it lay
// elsewhere is a move, without an OnRemoved. What is on its way from a tier lies nowhere until it has arrived. Between
// OnSealed and OnErased a block need not lie anywhere, and its parent may be erased before it.
class KvObserver {
 public:
  virtual ~KvObserver() = default;
  virtual void OnSealed(const KvBlockSeen& block) = 0;
  virtual void OnStored(const BlockId& id, KvMedium medium) = 0;   // was elsewhere, or nowhere
  virtual void OnRemoved(const BlockId& id, KvMedium medium) = 0;  // from where it was until now; it lies nowhere
  virtual void OnErased(const BlockId& id) = 0;                    // it lay nowhere, and nobody counts on it
  virtual void OnCleared() = 0;                                    // the replica is gone, and all lives have ended
};

}  // namespace interlace
