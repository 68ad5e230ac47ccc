// TransferQueue: the order in which moves of blocks are done.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace interlace {

// One move: the index-th of a group (ticket).
struct MoveRef {
  uint64_t group = 0;  // ascending: first come, first served
  int32_t index = 0;
  friend bool operator==(const MoveRef&, const MoveRef&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const MoveRef& m) {
    return H::combine(std::move(h), m.group, m.index);
  }
};

enum class Urgency : uint8_t { kRead, kWrite };

// A pure structure: reads before writes, earlier deadline first, then first come, over several lanes. A lane is a place
// that can be busy (a tier, for reads; all tiers, for writes). Owned by the TransferEngine, under its lock.
// The trap: a chunk holds moves of one group and one lane, so a group never starves another for longer than a chunk.
class TransferQueue {
 public:
  explicit TransferQueue(int lanes) : lanes_(lanes) {}

  void Push(int lane, Urgency urgency, absl::Time deadline, MoveRef move);
  // A queued move becomes as urgent as a read with this deadline, unless it is more urgent already. False if it is not
  // queued.
  bool BringForward(MoveRef move, absl::Time deadline);

  struct Chunk {
    int lane = 0;
    std::vector<MoveRef> moves;  // at least one
  };
  // The most urgent move of the open lanes, and up to most - 1 that follow it in its lane and group.
  std::optional<Chunk> Take(absl::FunctionRef<bool(int lane)> open, int32_t most);
  // True iff Take would give something.
  bool HasWork(absl::FunctionRef<bool(int lane)> open) const;
  bool empty() const { return places_.empty(); }

 private:
  struct Rank {
    Urgency urgency;
    absl::Time deadline;
    MoveRef move;
    friend bool operator<(const Rank& a, const Rank& b) {
      return std::tie(a.urgency, a.deadline, a.move.group, a.move.index) <
             std::tie(b.urgency, b.deadline, b.move.group, b.move.index);
    }
  };
  struct Place {
    int lane;
    Rank rank;
  };
  std::vector<std::set<Rank>> lanes_;
  absl::flat_hash_map<MoveRef, Place> places_;
};

}  // namespace interlace
