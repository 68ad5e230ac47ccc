// GhostList: what a skip index evicted, so that what more memory would give is known.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/skip_index/neighbours.h"
#include "coordinator/skip_index/skip_scope.h"

namespace interlace {

// A prompt that is as near to a ghost as its entry was at its farthest hit would have been a hit, and would have saved
// what the entry's hits saved. Over the bytes of the ghosts that is what a byte more is worth; the KV's side of the
// scale is what its own ghosts say. A value, bounded; part of SkipIndex.
class GhostList {
 public:
  static constexpr size_t kMost = 64;

  struct Ghost {
    SkipScope scope;
    std::vector<float> key;
    float reach = 1;
    double seconds_a_hit = 0;
    int64_t bytes = 0;  // that its entry took
  };
  void Add(Ghost ghost) {
    if (ghosts_.size() == kMost) {
      bytes_ -= ghosts_.front().bytes;
      ghosts_.pop_front();
    }
    bytes_ += ghost.bytes;
    ghosts_.push_back(std::move(ghost));
  }
  // A prompt for which no entry was there. Returns the seconds that a further MiB would have saved it.
  double Meet(const SkipScope& scope, absl::Span<const float> key) const {
    double most = 0;
    for (const Ghost& ghost : ghosts_) {
      const bool would_hit = ghost.scope == scope && Dot(ghost.key, key) >= ghost.reach;
      if (would_hit) most = std::max(most, ghost.seconds_a_hit);
    }
    return bytes_ == 0 ? 0 : most * (1 << 20) / static_cast<double>(std::max<int64_t>(bytes_, 1));
  }
  void Clear() {
    ghosts_.clear();
    bytes_ = 0;
  }
  // Of the list itself.
  int64_t bytes() const {
    int64_t sum = 0;
    for (const Ghost& ghost : ghosts_) sum += static_cast<int64_t>(sizeof ghost + ghost.key.size() * sizeof(float));
    return sum;
  }

 private:
  std::deque<Ghost> ghosts_;
  int64_t bytes_ = 0;  // of the entries
};

}  // namespace interlace
