#include "coordinator/router/prefix_directory.h"

#include <algorithm>

namespace interlace {

class PrefixDirectory::Observer final : public KvObserver {
 public:
  Observer(PrefixDirectory& directory, int32_t replica) : directory_(directory), replica_(replica) {}
  void OnSealed(const KvBlockSeen&) override {}
  void OnStored(const BlockId& id, KvMedium medium) override {
    Count(directory_.SetPlace(replica_, id, medium == KvMedium::kDevice ? Place::kDevice : Place::kHost));
  }
  void OnRemoved(const BlockId& id, KvMedium) override { Count(directory_.SetPlace(replica_, id, Place::kNowhere)); }
  void OnErased(const BlockId&) override {}  // it lay nowhere
  void OnCleared() override { directory_.Clear(replica_); }

  std::atomic<int64_t> held{0};  // blocks; the replica's thread writes it

 private:
  void Count(int64_t more) { held.store(held.load(std::memory_order_relaxed) + more, std::memory_order_relaxed); }

  PrefixDirectory& directory_;
  const int32_t replica_;
};

PrefixDirectory::PrefixDirectory(int32_t replicas) : replicas_(replicas), generations_(static_cast<size_t>(replicas)) {
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
  if (Now(*holder) != Place::kNowhere || holder->coming > 0) return;
  *holder = holders.back();
  holders.pop_back();
  if (holders.empty()) blocks_ -= static_cast<int64_t>(part.entries.erase(id));
}

PrefixDirectory::Holder& PrefixDirectory::Ensure(Part& part, int32_t replica, const BlockId& id) {
  const auto [entry, fresh] = part.entries.try_emplace(id);
  blocks_ += fresh ? 1 : 0;
  Holder* const holder = Find(entry->second, replica);
  return holder != nullptr ? *holder : entry->second.emplace_back(Holder{static_cast<uint16_t>(replica)});
}

int64_t PrefixDirectory::SetPlace(int32_t replica, const BlockId& id, Place place) {
  Part& part = PartOf(id);
  absl::MutexLock lock(&part.mutex);
  if (place == Place::kNowhere) {
    const auto entry = part.entries.find(id);
    Holder* const holder = entry == part.entries.end() ? nullptr : Find(entry->second, replica);
    if (holder == nullptr) return 0;
    const int64_t more = Now(*holder) == Place::kNowhere ? 0 : -1;
    holder->place = place;
    Tidy(part, id, entry->second, holder);
    return more;
  }
  Holder& holder = Ensure(part, replica, id);
  const int64_t more = Now(holder) == Place::kNowhere ? 1 : 0;
  holder.place = place;
  holder.generation = generations_[static_cast<size_t>(replica)].load(std::memory_order_relaxed);
  return more;
}

void PrefixDirectory::Expect(int32_t replica, absl::Span<const BlockId> ids) {
  for (const BlockId& id : ids) {
    Part& part = PartOf(id);
    absl::MutexLock lock(&part.mutex);
    ++Ensure(part, replica, id).coming;
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

// Called by one thread for each replica. Half the generations lie between two sweeps at most, so that none is mistaken
// for the one that had its number before.
void PrefixDirectory::Clear(int32_t replica) {
  const auto at = static_cast<size_t>(replica);
  stale_ += observers_[at]->held.exchange(0);
  const uint8_t generation = ++generations_[at];
  int64_t held = 0;
  for (const auto& observer : observers_) held += observer->held;
  if (generation % 128 == 0 || static_cast<double>(stale_) > kMostStale * static_cast<double>(held)) {
    Sweep();
  }
}

void PrefixDirectory::Sweep() {
  stale_ = 0;
  for (Part& part : parts_) {
    absl::MutexLock lock(&part.mutex);
    swept_ += static_cast<int64_t>(part.entries.size());
    const auto swept = absl::erase_if(part.entries, [this](auto& entry) {
      Holders& holders = entry.second;
      for (Holder& holder : holders) holder.place = Now(holder);
      const auto gone = [](const Holder& holder) { return holder.place == Place::kNowhere && holder.coming == 0; };
      holders.erase(std::remove_if(holders.begin(), holders.end(), gone), holders.end());
      return holders.empty();
    });
    blocks_ -= static_cast<int64_t>(swept);
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
      const Place place = Now(holder);
      if (place == Place::kNowhere && holder.coming == 0) continue;
      lies |= place != Place::kNowhere;
      HeldPrefix& prefix = (*held)[holder.replica];
      if (prefix.blocks != block) continue;  // an earlier block is missing there
      ++prefix.blocks;
      prefix.host += place == Place::kHost ? 1 : 0;
      prefix.coming += place == Place::kNowhere ? 1 : 0;
      any = true;
    }
    if (lies && lie == block) ++lie;
    if (!any && lie <= block) return lie;
  }
  return lie;
}

size_t PrefixDirectory::blocks() const { return static_cast<size_t>(blocks_.load()); }

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
