#include "coordinator/block_directory.h"

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "coordinator/sequence_state.h"

namespace interlace {

BlockEntry& BlockDirectory::Ensure(const SequenceState& sequence, int32_t block) {
  const BlockId& id = sequence.ids[block];
  std::unique_ptr<BlockEntry>& entry = entries_[id.low % kParts][id];
  if (entry == nullptr) {
    ++size_;
    entry = std::make_unique<BlockEntry>();
    entry->id = id;
    entry->index = block;
    entry->idle = shape_.all;
    entry->own = sequence.IsOwn(block, shape_.block_tokens);
    if (observer_ != nullptr && !entry->own) {
      const BlockId parent = block > 0 ? sequence.ids[block - 1] : BlockId{};
      const auto size = static_cast<size_t>(shape_.block_tokens);
      const auto tokens = absl::MakeConstSpan(sequence.tokens).subspan(static_cast<size_t>(block) * size, size);
      observer_->OnSealed({id, parent, tokens, sequence.request.salt, sequence.request.adapter});
    }
  }
  return *entry;
}

void BlockDirectory::Count(const LayerSet& device, const LayerSet& host, int sign) {
  if (!device.empty() || !host.empty()) shape_.AddRoom(sign, device, host, &idle_room_);
}

void BlockDirectory::Lie(BlockEntry& entry, const LayerSet& device, const LayerSet& host) {
  (device - entry.device).ForEach([&](LayerId l) { ++by_layer_[Value(l)].device; });
  (entry.device - device).ForEach([&](LayerId l) { --by_layer_[Value(l)].device; });
  (host - entry.host).ForEach([&](LayerId l) { ++by_layer_[Value(l)].host; });
  (entry.host - host).ForEach([&](LayerId l) { --by_layer_[Value(l)].host; });
  entry.device = device;
  entry.host = host;
}

void BlockDirectory::Enlist(BlockEntry& entry, BlockEntry::Listing* listing, std::list<BlockEntry*>* list) {
  if (list == listing->list) return;
  if (listing->list != nullptr) listing->list->erase(listing->at);
  if (list != nullptr) listing->at = list->insert(list->end(), &entry);
  listing->list = list;
}

template <typename Change>
void BlockDirectory::Update(BlockEntry& entry, Change change) {
  Count(EvictableDevice(entry), EvictableHost(entry), -1);
  arriving_ -= entry.arriving.empty() ? 0 : 1;
  change();
  arriving_ += entry.arriving.empty() ? 0 : 1;
  const LayerSet device = EvictableDevice(entry), host = EvictableHost(entry);
  Count(device, host, 1);
  std::list<BlockEntry*>& on_device = entry.holds > 0 ? held_on_device_ : idle_on_device_;
  Enlist(entry, &entry.on_device, device.empty() ? nullptr : &on_device);
  Enlist(entry, &entry.on_host, host.empty() ? nullptr : &idle_on_host_);
  if (observer_ != nullptr && !entry.own) Tell(entry);
}

void BlockDirectory::Tell(BlockEntry& entry) {
  std::optional<KvMedium> medium;
  const LayerSet there = entry.placed() - entry.arriving;
  if (there.Contains(shape_.unbounded.empty() ? shape_.all : shape_.unbounded)) {
    medium = entry.device.Contains(there) ? KvMedium::kDevice : KvMedium::kHost;
  }
  const std::optional<KvMedium> before = std::exchange(entry.told, medium);
  if (medium == before) return;
  if (medium) {
    observer_->OnStored(entry.id, *medium);
  } else {
    observer_->OnRemoved(entry.id, *before);
  }
}

LayerSet BlockDirectory::IdleLayers(const BlockEntry& entry) const {
  LayerSet seen;
  for (const SequenceState* user : entry.users) seen |= shape_.Seen(user->seen_from, entry.index);
  return shape_.all - seen;
}

void BlockDirectory::AddUser(BlockEntry& entry, SequenceState* user) {
  Update(entry, [&] {
    entry.users.push_back(user);
    entry.idle = IdleLayers(entry);
  });
}

void BlockDirectory::RemoveUser(BlockEntry& entry, SequenceState* user) {
  Update(entry, [&] {
    auto it = std::find(entry.users.begin(), entry.users.end(), user);
    CHECK_MSG(it != entry.users.end(), "a block lost a user that it did not have");
    entry.users.erase(it);
    entry.idle = IdleLayers(entry);
  });
}

void BlockDirectory::Seal(BlockEntry& entry, SequenceState* user, const LayerSet& device, const LayerSet& host) {
  Update(entry, [&] {
    entry.users.push_back(user);
    entry.idle = IdleLayers(entry);
    Lie(entry, device, host);
  });
}

void BlockDirectory::FindIdle(BlockEntry& entry) {
  const LayerSet idle = IdleLayers(entry);
  if (idle != entry.idle) Update(entry, [&] { entry.idle = idle; });
}

void BlockDirectory::SetHolds(BlockEntry& entry, int32_t holds) {
  Update(entry, [&] { entry.holds = holds; });
}

void BlockDirectory::SetArriving(BlockEntry& entry, const LayerSet& arriving) {
  Update(entry, [&] { entry.arriving = arriving; });
}

void BlockDirectory::SetPlaces(BlockEntry& entry, const LayerSet& device, const LayerSet& host) {
  Update(entry, [&] {
    Lie(entry, device, host);
    entry.arriving &= device | host;
  });
}

void BlockDirectory::Erase(BlockEntry& entry) {
  CHECK(entry.users.empty() && entry.holds == 0 && entry.placed().empty());
  --size_;
  if (observer_ != nullptr && !entry.own) observer_->OnErased(entry.id);
  entries_[entry.id.low % kParts].erase(BlockId(entry.id));  // the key outlives its entry
}

}  // namespace interlace
