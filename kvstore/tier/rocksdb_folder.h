// RocksFolder: a folder on a local disk that is ours, with blocks in RocksDB.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvstore/tier/block_index.h"
#include "kvstore/tier/tier.h"

namespace rocksdb {
class Env;
}

namespace interlace {

// Layout: DIR/INTERLACE_KV names the owner and the format; DIR/db is the database. Column family "default" holds the
// index and size of each block (8 bytes), and what it had earned when the folder was closed last (12 more; a block
// written since has none), "payload" the stored forms, in blob files; one write batch changes both. The write-ahead log
// is on and not synced: a kill of the process loses nothing that was written, a crash of the machine loses what the
// kernel had not written back yet. Bytes are not verified here: their reader does.
//
// Thread: Write, Collect, TryDisk one at a time; Read any. Owned by the rocksdb tier.
class RocksFolder {
 public:
  struct Options {
    std::string path;
    int64_t bound_bytes = 0;      // of everything in the folder
    rocksdb::Env* env = nullptr;  // null: the system's
  };
  // A folder that is missing or empty becomes ours. FailedPrecondition: it holds something that is not ours, or comes
  // from a newer version; nothing is touched. An older format of ours, or a damaged database, is cleared: it is a
  // cache. Unavailable: another process has it open. `failed` is called, on a thread of RocksDB, when the database
  // stops taking writes by itself.
  static absl::StatusOr<std::unique_ptr<RocksFolder>> Open(const Options& options, absl::AnyInvocable<void()> failed);
  ~RocksFolder();

  // Of each block, reading no payload.
  absl::Status ForEach(absl::FunctionRef<void(const BlockIndex::Block&)> body) const;
  // Keeps what blocks that are there have earned.
  absl::Status Keep(absl::Span<const BlockIndex::Block> blocks);

  struct Change {
    BlockKey key;
    int32_t index = 0;
    SharedBytes bytes;  // null: the block is deleted
  };
  // All or nothing. ResourceExhausted: the disk is full; Unavailable: the disk is sick.
  absl::Status Write(absl::Span<const Change> changes);
  // NotFound, DataLoss, Unavailable.
  absl::StatusOr<SharedBytes> Read(const BlockKey& key) const;
  // After writes failed: whether the disk takes some now. The database itself takes none until it is opened anew.
  absl::Status TryDisk() const;

  // Of all files in the folder.
  int64_t Bytes() const;
  // What the folder may grow to: bound_bytes, or less if the disk has no room for that much and a reserve.
  int64_t Bound() const;
  // Gives deleted blocks' bytes back to the disk, from the oldest blob files on, until the folder has at most
  // `goal_bytes`, nothing more is to be had, or `stop`. Rewrites the blocks still held in those files, and no others.
  absl::Status Collect(int64_t goal_bytes, std::atomic<bool>& stop);

 private:
  struct Database;
  explicit RocksFolder(const Options& options);
  absl::Status OpenDatabase();

  const Options options_;
  std::unique_ptr<Database> database_;
};

}  // namespace interlace
