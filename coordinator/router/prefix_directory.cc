#include "coordinator/router/prefix_directory.h"

#include <algorithm>

namespace interlace {

class PrefixDirectory::Observer final : public KvObserver {
 public:
  Observer(PrefixDirectory& directory, int32_t replica) : directory_(directory), replica_(replica) {}
  void OnSealed(const KvBlockSeen&) override {}
  void OnStored(const BlockId& id, KvMedium medium) override {
    directory_.SetPlace(replica_, id, medium == KvMedium::kDevice ? Place::kDevice : Place::kHost);
  }
  void OnRemoved(const BlockId& id, KvMedium) override { directory_.SetPlace(replica_, id, Place::kNowhere); }
  void OnErased(const BlockId&) override {}  // it lay nowhere
  void OnCleared() override { directory_.Clear(replica_); }

 private:
  PrefixDirectory& directory_;
  const int32_t replica_;
};

PrefixDirectory::PrefixDirectory(int32_t replicas) : replicas_(replicas) {
  for (int32_t r = 0; r < replicas; ++r) observers_.push_back(std::make_unique<Observer>(*this, r));
}
PrefixDirectory::~PrefixDirectory() = default;

KvObserver& PrefixDirectory::observer(int32_t replica) { return *observers_[static_cast<size_t>(replica)]; }

PrefixDirectory::Holder* PrefixDirectory::Find(Holders& holders, int32_t replica) {
  for (Holder& holder : holders) {
    if (holder.replica == replica) return &holder;
  }
  return nullptr;
}

void PrefixDirectory::Tidy(Part& part, const BlockId& id, Holders& holders, Holder* holder) {
  if (holder->place != Place::kNowhere || holder->coming > 0) return;
  *holder = holders.back();
  holders.pop_back();
  if (holders.empty()) part.entries.erase(id);
}

void PrefixDirectory::SetPlace(int32_t replica, const BlockId& id, Place place) {
  Part& part = PartOf(id);
  absl::MutexLock lock(&part.mutex);
  if (place == Place::kNowhere) {
    const auto entry = part.entries.find(id);
    Holder* const holder = entry == part.entries.end() ? nullptr : Find(entry->second, replica);
    if (holder == nullptr) return;
    holder->place = place;
    return Tidy(part, id, entry->second, holder);
  }
  Holders& holders = part.entries[id];
  Holder* holder = Find(holders, replica);
  if (holder == nullptr) holder = &holders.emplace_back(Holder{static_cast<uint16_t>(replica)});
  holder->place = place;
}

void PrefixDirectory::Expect(int32_t replica, absl::Span<const BlockId> ids) {
  for (const BlockId& id : ids) {
    Part& part = PartOf(id);
    absl::MutexLock lock(&part.mutex);
    Holders& holders = part.entries[id];
    Holder* holder = Find(holders, replica);
    if (holder == nullptr) holder = &holders.emplace_back(Holder{static_cast<uint16_t>(replica)});
    ++holder->coming;
  }
}

void PrefixDirectory::Forget(int32_t replica, absl::Span<const BlockId> ids) {
  for (const BlockId& id : ids) {
    Part& part = PartOf(id);
    absl::MutexLock lock(&part.mutex);
    const auto entry = part.entries.find(id);
    Holder* const holder = entry == part.entries.end() ? nullptr : Find(entry->second, replica);
    if (holder == nullptr || holder->coming == 0) continue;  // the replica was cleared meanwhile
    --holder->coming;
    Tidy(part, id, entry->second, holder);
  }
}

void PrefixDirectory::Clear(int32_t replica) {
  for (Part& part : parts_) {
    absl::MutexLock lock(&part.mutex);
    for (auto entry = part.entries.begin(); entry != part.entries.end();) {
      const auto at = entry++;
      Holders& holders = at->second;
      Holder* const holder = Find(holders, replica);
      if (holder == nullptr) continue;
      holder->place = Place::kNowhere;
      Tidy(part, BlockId(at->first), holders, holder);  // the key outlives its entry
    }
  }
}

int32_t PrefixDirectory::Match(absl::Span<const BlockId> ids, std::vector<HeldPrefix>* held) const {
  held->assign(static_cast<size_t>(replicas_), {});
  int32_t lie = 0;
  for (int32_t block = 0; block < static_cast<int32_t>(ids.size()); ++block) {
    const Part& part = PartOf(ids[static_cast<size_t>(block)]);
    absl::MutexLock lock(&part.mutex);
    const auto entry = part.entries.find(ids[static_cast<size_t>(block)]);
    if (entry == part.entries.end()) return lie;
    bool any = false, lies = false;
    for (const Holder& holder : entry->second) {
      lies |= holder.place != Place::kNowhere;
      HeldPrefix& prefix = (*held)[holder.replica];
      if (prefix.blocks != block) continue;  // an earlier block is missing there
      ++prefix.blocks;
      prefix.host += holder.place == Place::kHost ? 1 : 0;
      prefix.coming += holder.place == Place::kNowhere ? 1 : 0;
      any = true;
    }
    if (lies && lie == block) ++lie;
    if (!any && lie <= block) return lie;
  }
  return lie;
}

size_t PrefixDirectory::blocks() const {
  size_t blocks = 0;
  for (const Part& part : parts_) {
    absl::MutexLock lock(&part.mutex);
    blocks += part.entries.size();
  }
  return blocks;
}

size_t PrefixDirectory::bytes() const {
  size_t bytes = sizeof(*this);
  for (const Part& part : parts_) {
    absl::MutexLock lock(&part.mutex);
    bytes += part.entries.capacity() * (sizeof(std::pair<BlockId, Holders>) + 1);
    for (const auto& [id, holders] : part.entries) {
      if (holders.capacity() > 2) bytes += holders.capacity() * sizeof(Holder);
    }
  }
  return bytes;
}

}  // namespace interlace
