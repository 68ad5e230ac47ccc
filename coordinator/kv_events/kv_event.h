// KvEvent: what routers of others are told of the blocks that a replica holds. Values.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/kv_events/kv_changes.h"
#include "coordinator/kv_observer.h"
#include "kvstore/block_id.h"

namespace interlace {

// A block's name on the wire, where names have 64 bits.
inline int64_t HashOf(const BlockId& id) { return static_cast<int64_t>(id.low); }

// One event, of blocks that all lie in one memory.
struct KvEvent {
  // kStored: the blocks lie in `medium`. With tokens, a chain whose first block follows `parent`, told for the first
  // time; without, blocks that were told before and lay elsewhere. kRemoved: they lie in `medium` no more. kCleared: no
  // block lies anywhere.
  enum class Kind : uint8_t { kStored, kRemoved, kCleared };
  Kind kind = Kind::kCleared;
  KvMedium medium = KvMedium::kDevice;
  int32_t block_tokens = 0;
  std::vector<int64_t> blocks;
  std::optional<int64_t> parent;  // none: the first block begins a text, or nothing is told for the first time
  std::vector<int32_t> tokens;    // of the blocks, one after another
  std::shared_ptr<const ServedAdapter> adapter = nullptr;  // of blocks with tokens; null: they are the model's own
  friend bool operator==(const KvEvent&, const KvEvent&) = default;
};

// Events in order, those that follow each other joined where one says the same as both.
class KvEventList {
 public:
  // A block with another adapter than its parent is no child of it: their names say so.
  void Store(const BlockId& id, const KvBlockText& text, KvMedium medium);
  void Move(const BlockId& id, int32_t block_tokens, KvMedium from, KvMedium to);
  void Remove(const BlockId& id, KvMedium medium);
  void Clear();
  std::vector<KvEvent> Take() { return std::move(events_); }

 private:
  // The event that is `back` from the end and says this of more blocks, or null.
  KvEvent* Joins(size_t back, KvEvent::Kind kind, KvMedium medium, bool tokens);
  KvEvent& Add(KvEvent::Kind kind, KvMedium medium);
  std::vector<KvEvent> events_;
};

// Which part of a snapshot a batch is.
struct KvSnapshotPart {
  uint32_t index = 0;
  uint32_t count = 1;
  uint64_t blocks = 0;  // of the whole snapshot
};

// What is sent as one message. Numbers rise by one from batch to batch, also from one process to the next.
struct KvEventBatch {
  uint64_t number = 0;
  uint64_t first_event = 0;  // events are counted from 1; 0: those of a snapshot are not counted
  double time = 0;           // seconds since 1970
  std::vector<KvEvent> events;
  std::optional<KvSnapshotPart> snapshot;
};

// The events as batches without numbers, none larger than a message should be; at least one.
std::vector<KvEventBatch> InBatches(std::vector<KvEvent> events);
// Roughly how much memory a batch takes, in numbers of tokens and blocks.
size_t WeightOf(const KvEventBatch& batch);

}  // namespace interlace
