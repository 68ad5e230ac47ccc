// KvTier: a cache of stored blocks below the host.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/ids.h"
#include "common/transport.h"
#include "kvstore/block_id.h"

namespace interlace {

struct StoredBlock {
  BlockKey key;
  int32_t index = 0;  // of the block in its sequence: computing it again costs more the farther back it lies
  SharedBytes bytes;  // as EncodeBlock made them
};

struct TierUsage {
  int64_t blocks = 0;
  int64_t bytes = 0;
  int64_t capacity_bytes = 0;
  bool shared = false;  // by several ranks, which all name the same bytes: counted once, not once a rank
};

// A cache by content: what it holds under a key is always the same bytes, so that a second Put of a key changes
// nothing, and it may forget any block at any time. It is bounded in bytes and evicts the block that is worth least: by
// what computing it again would cost, how likely it is to be asked for again, and how many bytes it takes.
//
// No call waits for I/O; `done` runs exactly once, on any thread, possibly before the call returns. A tier keeps bytes
// and does not verify them: the reader does. Owned by a TierStack or by the kvstore server; thread-safe.
class KvTier {
 public:
  // One status for each block, in order: OK (held now, or was before), ResourceExhausted (no room that may be taken),
  // Unavailable (the place is gone or sick).
  using PutDone = absl::AnyInvocable<void(std::vector<absl::Status>)>;
  // One answer for each key, in order: the bytes, NotFound, DataLoss (the place saw damage itself), or Unavailable.
  using GetDone = absl::AnyInvocable<void(std::vector<absl::StatusOr<SharedBytes>>)>;
  // One answer for each key, in order; a place that is gone holds nothing.
  using ProbeDone = absl::AnyInvocable<void(std::vector<bool>)>;

  virtual ~KvTier() = default;
  virtual absl::string_view name() const = 0;
  // Whether a Put would be tried now. False while the place is away, sick or over its bound: nobody should encode a
  // block for it. Cheap, called for each block that is sealed.
  virtual bool Wants() const = 0;
  virtual void Probe(std::vector<BlockKey> keys, ProbeDone done) = 0;
  virtual void Put(std::vector<StoredBlock> blocks, PutDone done) = 0;
  virtual void Get(std::vector<BlockKey> keys, GetDone done) = 0;
  // Forgets the blocks, best effort: a reader found one to be damaged.
  virtual void Drop(std::vector<BlockKey> keys) = 0;
  virtual TierUsage Usage() = 0;
};

}  // namespace interlace
