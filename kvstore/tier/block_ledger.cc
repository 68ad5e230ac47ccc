#include "kvstore/tier/block_ledger.h"

#include "absl/strings/str_cat.h"

namespace interlace {

absl::Status BlockLedger::Begin(const BlockKey& key, int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const Entry* known = Find(key);
  const int64_t former = known != nullptr ? known->bytes : 0;
  if (bytes_ - former + bytes > capacity_bytes_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("tier is full: ", bytes_, " of ", capacity_bytes_, " bytes taken, ", bytes, " asked for"));
  }
  auto [it, added] = generations_[key.generation].try_emplace(key);
  it->second.bytes = bytes;
  ++it->second.writes;
  bytes_ += bytes - former;
  if (added) ++blocks_;
  return absl::OkStatus();
}

void BlockLedger::End(const BlockKey& key, bool ok) {
  absl::MutexLock lock(&mutex_);
  auto of = generations_.find(key.generation);
  if (of == generations_.end()) return;  // dropped
  auto it = of->second.find(key);
  if (it == of->second.end()) return;
  it->second.held = ok;
  if (--it->second.writes > 0 || ok) return;
  bytes_ -= it->second.bytes;
  --blocks_;
  of->second.erase(it);
  if (of->second.empty()) generations_.erase(of);
}

const BlockLedger::Entry* BlockLedger::Find(const BlockKey& key) const {
  auto of = generations_.find(key.generation);
  if (of == generations_.end()) return nullptr;
  auto it = of->second.find(key);
  return it == of->second.end() ? nullptr : &it->second;
}

bool BlockLedger::Awaits(const BlockKey& key) const {
  absl::MutexLock lock(&mutex_);
  const Entry* entry = Find(key);
  return entry != nullptr && entry->writes > 0;
}

bool BlockLedger::Holds(const BlockKey& key) const {
  absl::MutexLock lock(&mutex_);
  const Entry* entry = Find(key);
  return entry != nullptr && entry->held;
}

bool BlockLedger::Drop(Generation generation) {
  absl::MutexLock lock(&mutex_);
  auto of = generations_.find(generation);
  if (of == generations_.end()) return false;
  for (const auto& [key, entry] : of->second) bytes_ -= entry.bytes;
  blocks_ -= static_cast<int64_t>(of->second.size());
  generations_.erase(of);
  return true;
}

TierUsage BlockLedger::Usage() const {
  absl::MutexLock lock(&mutex_);
  return {blocks_, bytes_, capacity_bytes_};
}

}  // namespace interlace
