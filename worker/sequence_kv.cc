#include "worker/sequence_kv.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace interlace {

void SequenceKv::Adopt(absl::Span<const int32_t> tokens) {
  CHECK(tokens_.empty());
  tokens_.assign(tokens.begin(), tokens.end());
  length_ = end();
  pointers.Resize(Blocks());
  for (Tail& tail : tails_) tail.first = Blocks();
}

void SequenceKv::Truncate(int32_t start) {
  CHECK(start <= length_ && start >= shared() * block_tokens_);
  const int32_t left = (start + block_tokens_ - 1) / block_tokens_;  // blocks that hold positions before `start`
  tokens_.resize(start);
  length_ = start;
  for (Tail& tail : tails_) {
    if (static_cast<int32_t>(tail.slots.size()) > left - tail.first) tail.slots.resize(left - tail.first);
  }
  pointers.Resize(left);
}

void SequenceKv::Extend(absl::Span<const int32_t> tokens) {
  CHECK(length_ == end());
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  pointers.Resize(Blocks());
}

void SequenceKv::Name(const SealedNames& names) {
  const auto end = static_cast<size_t>(names.first) + names.ids.size();
  if (names_.size() < end) names_.resize(end);
  for (size_t i = 0; i < names.ids.size(); ++i) {
    const size_t block = static_cast<size_t>(names.first) + i;
    if (static_cast<int32_t>(block) >= shared()) names_[block] = names.ids[i];
  }
}

int32_t SequenceKv::Sealable(int32_t tokens) const {
  const int32_t filled = std::min(tokens / block_tokens_, static_cast<int32_t>(names_.size()));
  int32_t block = shared();
  while (block < filled && names_[block] != BlockId{}) ++block;
  return block;
}

void SequenceKv::PushSlot(int32_t layer, ArenaSlot slot) {
  pointers.SetOwn(layer, TailEnd(layer), slot.data());
  tails_[layer].slots.push_back(std::move(slot));
}

ArenaSlot SequenceKv::TakeSlot(int32_t layer, int32_t block) {
  return std::move(tails_[layer].slots.at(block - tails_[layer].first));
}

void SequenceKv::DropTail() {
  for (Tail& tail : tails_) tail.slots.clear();
}

void SequenceKv::DropTaken(int32_t layer, int32_t end) {
  Tail& tail = tails_[layer];
  if (end <= tail.first) return;
  tail.slots.erase(tail.slots.begin(), tail.slots.begin() + (end - tail.first));
  tail.first = end;
}

}  // namespace interlace
