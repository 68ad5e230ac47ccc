#include "coordinator/kv_events/kv_changes.h"

#include <utility>

namespace interlace {

KvChangeSet KvChanges::Take() {
  absl::MutexLock lock(&mutex_);
  awake_ = false;
  at_.clear();
  return std::exchange(changed_, {});
}

template <typename Body>
void KvChanges::Change(const BlockId& id, Body body) {
  bool wake;
  {
    absl::MutexLock lock(&mutex_);
    const auto [it, fresh] = at_.try_emplace(id, changed_.changes.size());
    if (fresh) changed_.changes.push_back({.id = id});
    body(changed_.changes[it->second]);
    wake = !std::exchange(awake_, true);
  }
  if (wake) wake_();
}

void KvChanges::Drop(const BlockId& id) {
  const auto it = at_.find(id);
  const size_t at = it->second;
  at_.erase(it);
  if (at + 1 < changed_.changes.size()) {
    changed_.changes[at] = std::move(changed_.changes.back());
    at_[changed_.changes[at].id] = at;
  }
  changed_.changes.pop_back();
}

void KvChanges::OnSealed(const KvBlockSeen& block) {
  std::optional<KvBlockText> text;
  if (block.salt.empty()) {
    text.emplace(KvBlockText{block.parent, {block.tokens.begin(), block.tokens.end()}, block.adapter});
  }
  Change(block.id, [&](KvChange& change) {
    // What the taker knows and was erased since is the same again: a name is its text's.
    if (std::exchange(change.erased, false)) return;
    change.sealed = true;
    change.text = std::move(text);
  });
}

void KvChanges::OnStored(const BlockId& id, KvMedium medium) {
  Change(id, [&](KvChange& change) { change.medium = medium; });
}

void KvChanges::OnRemoved(const BlockId& id, KvMedium medium) {
  Change(id, [&](KvChange& change) { change.medium.reset(); });
}

void KvChanges::OnErased(const BlockId& id) {
  Change(id, [&](KvChange& change) {
    if (change.sealed) return Drop(id);  // the taker has never heard of it
    change.erased = true;
    change.medium.reset();
  });
}

void KvChanges::OnCleared() {
  bool wake;
  {
    absl::MutexLock lock(&mutex_);
    changed_.changes.clear();
    at_.clear();
    changed_.cleared = true;
    wake = !std::exchange(awake_, true);
  }
  if (wake) wake_();
}

}  // namespace interlace
