// KvEventPicture: which blocks routers of others have been told of, and what to tell them next. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "coordinator/kv_events/kv_changes.h"
#include "coordinator/kv_events/kv_event.h"

namespace interlace {

// Readers see one engine, however many replicas stand behind it: a block lies on the device if it does so on one of
// them. A block is told while it lies somewhere and the block before it is told: a prefix is of use from its begin on,
// and readers look a block's parent up. So what is told is, at any moment, a set of whole prefixes. A block whose
// parent goes is told to be gone, and told anew when the parent comes back. Owned by KvEventLog; thread: its
// executor's.
class KvEventPicture {
 public:
  explicit KvEventPicture(size_t replicas) : replicas_(replicas) {}
  // Takes the changes of one replica in; what others are to be told of them, in order.
  std::vector<KvEvent> Apply(size_t replica, KvChangeSet changed);
  // What somebody who knows nothing is to be told, parents before children.
  std::vector<KvEvent> All() const;
  size_t told() const { return told_; }  // blocks

 private:
  enum class Place : uint8_t { kUnknown, kNowhere, kHost, kDevice };  // of a block on a replica
  struct Node {
    KvBlockText text;
    absl::InlinedVector<Place, 8> places;  // by replica
    std::optional<KvMedium> told;          // where others believe that it lies
  };
  static Place Best(const Node& node);
  static std::optional<KvMedium> Medium(const Node& node);
  void ForgetReplica(size_t replica, KvEventList* events);
  // Tells what is so of the block, and of those behind it if it comes or goes.
  void Settle(const BlockId& id, KvEventList* events);
  bool IsTold(const BlockId& id) const;
  void EraseIfUnknown(const BlockId& id);

  const size_t replicas_;
  absl::flat_hash_map<BlockId, Node> nodes_;
  absl::flat_hash_map<BlockId, absl::btree_set<BlockId>> children_;  // by parent, which may be unknown, or zero
  size_t told_ = 0;
};

}  // namespace interlace
