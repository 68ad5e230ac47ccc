// TokenLedger: the accepted tokens of each running request; what survives a lost replica.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/ids.h"

namespace interlace {

// Accepts a token iff its attempt is the current one and its index is the next; anything else is stale and counted.
// Owned by the Scheduler; thread: the replica's.
class TokenLedger {
 public:
  void Open(RequestId request);
  // A new attempt begins: results of the former one are stale from now on. Accepted tokens stay.
  uint32_t NextAttempt(RequestId request);
  bool Accept(RequestId request, uint32_t attempt, int32_t index, int32_t token);
  void Close(RequestId request) { entries_.erase(request); }

  uint32_t attempt(RequestId request) const { return entries_.at(request).attempt; }
  const std::vector<int32_t>& accepted(RequestId request) const { return entries_.at(request).tokens; }
  int64_t stale() const { return stale_; }
  size_t open() const { return entries_.size(); }

 private:
  struct Entry {
    uint32_t attempt = 0;
    std::vector<int32_t> tokens;
  };
  absl::flat_hash_map<RequestId, Entry> entries_;
  int64_t stale_ = 0;
};

}  // namespace interlace
