#include "kvstore/block_table.h"

#include <utility>

#include "common/check.h"

namespace interlace {

const BlockTable::Record* BlockTable::Find(const BlockKey& key) const {
  auto of = generations_.find(key.generation);
  if (of == generations_.end()) return nullptr;
  auto it = of->second.records.find(key);
  return it == of->second.records.end() ? nullptr : &it->second;
}

BlockTable::Begun BlockTable::BeginWrite(const BlockKey& key, MoveRef write) {
  GenerationBlocks& of = generations_[key.generation];
  if (of.dropped) return Begun::kDropped;
  Record& record = of.records[key];
  record.writes.push_back(write);
  ++of.writes;
  return record.writes.size() == 1 ? Begun::kGo : Begun::kBehindAnother;
}

BlockTable::Ended BlockTable::EndWrite(const BlockKey& key, std::optional<int16_t> tier) {
  auto of = generations_.find(key.generation);
  CHECK_MSG(of != generations_.end(), "a write of an unknown generation ended");
  auto it = of->second.records.find(key);
  CHECK_MSG(it != of->second.records.end() && !it->second.writes.empty(), "a write ended that did not begin");
  Record& record = it->second;
  record.writes.pop_front();
  --of->second.writes;
  if (tier.has_value() && !of->second.dropped) record.tier = tier;
  Ended ended;
  if (!record.writes.empty()) {
    ended.next = record.writes.front();
    ended.readers_wait = !record.readers.empty();
  } else {
    ended.released = std::exchange(record.readers, {});
    if (!record.tier.has_value()) of->second.records.erase(it);
  }
  ended.last_of_dropped = of->second.dropped && of->second.writes == 0;
  if (!of->second.dropped && of->second.records.empty()) generations_.erase(of);
  return ended;
}

std::optional<MoveRef> BlockTable::WaitForWrite(const BlockKey& key, MoveRef read) {
  auto of = generations_.find(key.generation);
  if (of == generations_.end()) return std::nullopt;
  auto it = of->second.records.find(key);
  if (it == of->second.records.end() || it->second.writes.empty()) return std::nullopt;
  it->second.readers.push_back(read);
  return it->second.writes.front();
}

std::optional<int16_t> BlockTable::TierOf(const BlockKey& key) const {
  const Record* record = Find(key);
  return record == nullptr ? std::nullopt : record->tier;
}

void BlockTable::Forget(const BlockKey& key) {
  auto of = generations_.find(key.generation);
  if (of == generations_.end()) return;
  auto it = of->second.records.find(key);
  if (it == of->second.records.end()) return;
  it->second.tier.reset();
  if (it->second.writes.empty()) of->second.records.erase(it);
}

bool BlockTable::Drop(Generation generation) {
  // Marked even if nothing is known of it: the mark keeps writes out until the tiers have dropped it.
  GenerationBlocks& of = generations_[generation];
  if (of.dropped) return false;
  of.dropped = true;
  for (auto& [key, record] : of.records) record.tier.reset();
  return of.writes == 0;
}

bool BlockTable::IsDropped(Generation generation) const {
  auto of = generations_.find(generation);
  return of != generations_.end() && of->second.dropped;
}

std::optional<BlockKey> BlockTable::OtherLayer(const BlockKey& key) const {
  auto of = generations_.find(key.generation);
  if (of == generations_.end()) return std::nullopt;
  const std::optional<int16_t> tier = TierOf(key);
  std::optional<BlockKey> other;
  for (const auto& [candidate, record] : of->second.records) {
    if (candidate.hash != key.hash || candidate.layer == key.layer || !record.tier || record.tier != tier) continue;
    if (!other || candidate.layer < other->layer) other = candidate;
  }
  return other;
}

std::optional<BlockKey> BlockTable::OtherRequest(const BlockKey& key) const {
  const std::optional<int16_t> tier = TierOf(key);
  std::optional<BlockKey> other;
  for (const auto& [generation, of] : generations_) {
    if (generation == key.generation) continue;
    for (const auto& [candidate, record] : of.records) {
      if (!record.tier || record.tier != tier) continue;
      // Nearest first: the same block of tokens in the same layer, then any.
      const auto nearness = [&](const BlockKey& k) {
        return std::pair(std::pair(k.hash != key.hash, k.layer != key.layer), EncodeKey(k));
      };
      if (!other || nearness(candidate) < nearness(*other)) other = candidate;
    }
  }
  return other;
}

}  // namespace interlace
