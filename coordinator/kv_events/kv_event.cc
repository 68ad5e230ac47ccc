#include "coordinator/kv_events/kv_event.h"

#include <utility>

namespace interlace {
namespace {

constexpr size_t kMostBlocks = 1024;              // of one event
constexpr size_t kMostTokens = 8192;              // of one event
constexpr size_t kBatchWeight = size_t{1} << 16;  // some 400 KiB on the wire; clients of gRPC take 4 MiB

size_t WeightOf(const KvEvent& event) { return 1 + event.blocks.size() + event.tokens.size(); }

}  // namespace

KvEvent* KvEventList::Joins(size_t back, KvEvent::Kind kind, KvMedium medium, bool tokens) {
  if (events_.size() < back) return nullptr;
  KvEvent& event = events_[events_.size() - back];
  const bool same = event.kind == kind && event.medium == medium && !event.tokens.empty() == tokens;
  return same && event.blocks.size() < kMostBlocks && event.tokens.size() < kMostTokens ? &event : nullptr;
}

KvEvent& KvEventList::Add(KvEvent::Kind kind, KvMedium medium) {
  KvEvent& event = events_.emplace_back();
  event.kind = kind;
  event.medium = medium;
  return event;
}

void KvEventList::Store(const BlockId& id, const KvBlockText& text, KvMedium medium) {
  const auto& [parent, tokens, adapter] = text;
  KvEvent* event = Joins(1, KvEvent::Kind::kStored, medium, true);
  if (event == nullptr || parent == BlockId{} || event->blocks.back() != HashOf(parent)) {
    event = &Add(KvEvent::Kind::kStored, medium);
    event->block_tokens = static_cast<int32_t>(tokens.size());
    if (parent != BlockId{}) event->parent = HashOf(parent);
    event->adapter = adapter;
  }
  event->blocks.push_back(HashOf(id));
  event->tokens.insert(event->tokens.end(), tokens.begin(), tokens.end());
}

// The new place first: the block is somewhere all the time.
void KvEventList::Move(const BlockId& id, int32_t block_tokens, KvMedium from, KvMedium to) {
  KvEvent* stored = Joins(2, KvEvent::Kind::kStored, to, false);
  KvEvent* removed = Joins(1, KvEvent::Kind::kRemoved, from, false);
  if (stored == nullptr || removed == nullptr) {
    Add(KvEvent::Kind::kStored, to).block_tokens = block_tokens;
    Add(KvEvent::Kind::kRemoved, from);
    stored = &events_[events_.size() - 2];
    removed = &events_.back();
  }
  stored->blocks.push_back(HashOf(id));
  removed->blocks.push_back(HashOf(id));
}

void KvEventList::Remove(const BlockId& id, KvMedium medium) {
  KvEvent* event = Joins(1, KvEvent::Kind::kRemoved, medium, false);
  if (event == nullptr) event = &Add(KvEvent::Kind::kRemoved, medium);
  event->blocks.push_back(HashOf(id));
}

void KvEventList::Clear() { Add(KvEvent::Kind::kCleared, KvMedium::kDevice); }

std::vector<KvEventBatch> InBatches(std::vector<KvEvent> events) {
  std::vector<KvEventBatch> batches(1);
  size_t weight = 0;
  for (KvEvent& event : events) {
    const size_t more = WeightOf(event);
    if (weight > 0 && weight + more > kBatchWeight) {
      batches.emplace_back();
      weight = 0;
    }
    weight += more;
    batches.back().events.push_back(std::move(event));
  }
  return batches;
}

size_t WeightOf(const KvEventBatch& batch) {
  size_t weight = 16;
  for (const KvEvent& event : batch.events) weight += 16 + WeightOf(event);
  return weight;
}

}  // namespace interlace
