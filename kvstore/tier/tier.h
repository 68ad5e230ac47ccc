// KvTier: a place below the device for stored blocks.
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
#include "kvstore/block_key.h"

namespace interlace {

struct StoredBlock {
  BlockKey key;
  SharedBytes bytes;  // as EncodeBlock made them
};

struct TierUsage {
  int64_t blocks = 0;
  int64_t bytes = 0;
  int64_t capacity_bytes = 0;
};

// Bounded in bytes: a write beyond the bound is refused with ResourceExhausted, nothing is evicted, since what is
// stored belongs to running requests. No call waits for I/O; `done` runs exactly once, on any thread, possibly before
// the call returns. A tier keeps bytes and does not verify them: the reader does. Owned by the TransferEngine (or the
// kvstore server); thread-safe. The trap: a Drop races with writes in flight; the caller drops a generation only after
// its writes are done.
class KvTier {
 public:
  // One status for each block, in order: OK, ResourceExhausted (full), Unavailable (the place is gone).
  using WriteDone = absl::AnyInvocable<void(std::vector<absl::Status>)>;
  // One answer for each key, in order: the bytes, NotFound, DataLoss (the place saw damage itself), or Unavailable.
  using ReadDone = absl::AnyInvocable<void(std::vector<absl::StatusOr<SharedBytes>>)>;

  virtual ~KvTier() = default;
  virtual absl::string_view name() const = 0;
  // Stores or replaces.
  virtual void Write(std::vector<StoredBlock> blocks, WriteDone done) = 0;
  virtual void Read(std::vector<BlockKey> keys, ReadDone done) = 0;
  // Forgets every block of the generation; best effort, and final when it returns for tiers in this process.
  virtual void Drop(Generation generation) = 0;
  virtual TierUsage Usage() = 0;
};

}  // namespace interlace
