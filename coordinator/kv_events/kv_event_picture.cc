#include "coordinator/kv_events/kv_event_picture.h"

#include <algorithm>
#include <utility>

namespace interlace {

std::vector<KvEvent> KvEventPicture::Apply(size_t replica, KvChangeSet changed) {
  KvEventList events;
  if (changed.cleared) ForgetReplica(replica, &events);
  for (KvChange& change : changed.changes) {
    auto it = nodes_.find(change.id);
    if (change.text && it == nodes_.end()) {
      children_[change.text->parent].insert(change.id);
      it = nodes_.try_emplace(change.id).first;
      it->second.text = *std::move(change.text);
      it->second.places.resize(replicas_, Place::kUnknown);
    }
    if (it == nodes_.end()) continue;
    it->second.places[replica] = change.erased                         ? Place::kUnknown
                                 : !change.medium                      ? Place::kNowhere
                                 : *change.medium == KvMedium::kDevice ? Place::kDevice
                                                                       : Place::kHost;
  }
  for (const KvChange& change : changed.changes) Settle(change.id, &events);
  for (const KvChange& change : changed.changes) {
    if (change.erased) EraseIfUnknown(change.id);
  }
  return events.Take();
}

KvEventPicture::Place KvEventPicture::Best(const Node& node) {
  return *std::max_element(node.places.begin(), node.places.end());
}

std::optional<KvMedium> KvEventPicture::Medium(const Node& node) {
  const Place best = Best(node);
  if (best == Place::kDevice) return KvMedium::kDevice;
  return best == Place::kHost ? std::optional(KvMedium::kHost) : std::nullopt;
}

void KvEventPicture::ForgetReplica(size_t replica, KvEventList* events) {
  std::vector<BlockId> known;
  bool others = false;
  for (auto& [id, node] : nodes_) {
    node.places[replica] = Place::kUnknown;
    others = others || Best(node) != Place::kUnknown;
    known.push_back(id);
  }
  if (others) {
    for (const BlockId& id : known) Settle(id, events);
    for (const BlockId& id : known) EraseIfUnknown(id);
    return;
  }
  nodes_.clear();
  children_.clear();
  told_ = 0;
  events->Clear();
}

bool KvEventPicture::IsTold(const BlockId& id) const {
  const auto it = nodes_.find(id);
  return it != nodes_.end() && it->second.told;
}

void KvEventPicture::Settle(const BlockId& first, KvEventList* events) {
  std::vector<BlockId> open = {first};
  while (!open.empty()) {
    const BlockId id = open.back();
    open.pop_back();
    const auto it = nodes_.find(id);
    if (it == nodes_.end()) continue;
    Node& node = it->second;
    const BlockId& parent = node.text.parent;
    const bool follows = parent == BlockId{} || IsTold(parent);
    const std::optional<KvMedium> now = follows ? Medium(node) : std::nullopt;
    const std::optional<KvMedium> before = std::exchange(node.told, now);
    if (now == before) continue;
    if (now && before) {
      events->Move(id, static_cast<int32_t>(node.text.tokens.size()), *before, *now);
      continue;
    }
    if (now) {
      events->Store(id, node.text, *now);
      ++told_;
    } else {
      events->Remove(id, *before);
      --told_;
    }
    const auto children = children_.find(id);
    if (children != children_.end()) open.insert(open.end(), children->second.begin(), children->second.end());
  }
}

void KvEventPicture::EraseIfUnknown(const BlockId& id) {
  const auto it = nodes_.find(id);
  if (it == nodes_.end() || Best(it->second) != Place::kUnknown) return;
  const auto siblings = children_.find(it->second.text.parent);
  siblings->second.erase(id);
  if (siblings->second.empty()) children_.erase(siblings);
  nodes_.erase(it);
}

std::vector<KvEvent> KvEventPicture::All() const {
  KvEventList events;
  std::vector<BlockId> open = {BlockId{}};
  while (!open.empty()) {
    const BlockId id = open.back();
    open.pop_back();
    const auto it = nodes_.find(id);
    if (it != nodes_.end()) {
      const Node& node = it->second;
      if (!node.told) continue;
      events.Store(id, node.text, *node.told);
    }
    const auto children = children_.find(id);
    if (children != children_.end()) open.insert(open.end(), children->second.begin(), children->second.end());
  }
  return events.Take();
}

}  // namespace interlace
