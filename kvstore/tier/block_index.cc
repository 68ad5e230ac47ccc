#include "kvstore/tier/block_index.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/check.h"

namespace interlace {
namespace {

constexpr int32_t kMostUses = 256;       // more would only make the block outlive its readers
constexpr double kIndexOfDouble = 1024;  // the index at which a block costs twice the first one
constexpr double kStepsPerUnit = 8;

}  // namespace

BlockIndex::Rank BlockIndex::RankOf(const BlockKey& key, const Entry& entry) {
  return {static_cast<int64_t>(std::floor(entry.priority * kStepsPerUnit)), entry.index, entry.order, key};
}

void BlockIndex::Rate(const BlockKey& key, Entry& entry) {
  entry.uses = std::min(entry.uses + 1, kMostUses);
  entry.clock = clock_;
  entry.unkept = true;
  Place(key, entry);
}

void BlockIndex::Place(const BlockKey& key, Entry& entry) {
  const double mean = static_cast<double>(bytes_) / static_cast<double>(entries_.size());
  const double size = static_cast<double>(std::max<int64_t>(entry.bytes, 1)) / std::max(mean, 1.0);
  const double cost = 1 + entry.index / kIndexOfDouble;
  entry.priority = entry.clock + entry.uses * cost / size;
  entry.order = ++last_order_;
  ranks_.insert(RankOf(key, entry));
}

void BlockIndex::Restore(std::vector<Block> blocks, std::vector<BlockKey>* evicted) {
  CHECK(entries_.empty());
  std::sort(blocks.begin(), blocks.end(),
            [](const Block& a, const Block& b) { return a.earned.clock < b.earned.clock; });
  for (const Block& block : blocks) {
    bytes_ += block.bytes;
    clock_ = std::max(clock_, block.earned.clock);
    entries_[block.key] = {.bytes = block.bytes,
                           .index = block.index,
                           .uses = std::min(block.earned.uses, kMostUses),
                           .clock = block.earned.clock};
  }
  for (const Block& block : blocks) {  // all are counted now, as the mean needs
    block.earned.uses > 0 ? Place(block.key, entries_.at(block.key)) : Rate(block.key, entries_.at(block.key));
  }
  EvictDownTo(capacity_bytes_, evicted);
}

std::vector<BlockIndex::Block> BlockIndex::TakeUnkept() {
  std::vector<Block> unkept;
  for (auto& [key, entry] : entries_) {
    if (!std::exchange(entry.unkept, false)) continue;
    unkept.push_back({key, entry.index, entry.bytes, {entry.uses, entry.clock}});
  }
  return unkept;
}

BlockIndex::Earned BlockIndex::EarnedBy(const BlockKey& key) const {
  const auto it = entries_.find(key);
  return it == entries_.end() ? Earned{} : Earned{it->second.uses, it->second.clock};
}

BlockIndex::Added BlockIndex::Add(const BlockKey& key, int32_t index, int64_t bytes, std::vector<BlockKey>* evicted) {
  if (Use(key)) return Added::kHeld;
  if (bytes > capacity_bytes_) return Added::kTooLarge;
  EvictDownTo(capacity_bytes_ - bytes, evicted);
  bytes_ += bytes;
  Entry& entry = entries_[key];
  entry.bytes = bytes;
  entry.index = index;
  Rate(key, entry);
  return Added::kNew;
}

bool BlockIndex::Use(const BlockKey& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return false;
  ranks_.erase(RankOf(key, it->second));
  Rate(key, it->second);
  return true;
}

bool BlockIndex::Remove(const BlockKey& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return false;
  bytes_ -= it->second.bytes;
  ranks_.erase(RankOf(key, it->second));
  entries_.erase(it);
  return true;
}

void BlockIndex::SetCapacity(int64_t capacity_bytes, std::vector<BlockKey>* evicted) {
  capacity_bytes_ = capacity_bytes;
  EvictDownTo(capacity_bytes, evicted);
}

void BlockIndex::EvictDownTo(int64_t bytes, std::vector<BlockKey>* evicted) {
  while (bytes_ > bytes && !ranks_.empty()) {
    const BlockKey victim = ranks_.begin()->key;
    clock_ = std::max(clock_, entries_.at(victim).priority);
    Remove(victim);
    evicted->push_back(victim);
  }
}

}  // namespace interlace
