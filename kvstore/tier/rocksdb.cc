// "rocksdb": blocks in a RocksDB folder on a local disk, values in blob files, no write-ahead log.
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/bounded_queue.h"
#include "common/log.h"
#include "common/thread.h"
#include "kvstore/tier/block_ledger.h"
#include "kvstore/tier/tiers.h"

namespace interlace {
namespace {

constexpr int kReaders = 3;
constexpr size_t kQueuedCalls = 4096;
// Dropped blocks stay in blob files until those are collected; beyond this much above the capacity, writes are refused
// until they are.
constexpr double kGarbageFactor = 1.0;
constexpr int64_t kGarbageSlack = 64 << 20;

absl::Status RocksStatus(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat("rocksdb: ", what, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  if (status.IsInvalidArgument()) return absl::InvalidArgumentError(text);
  return absl::UnavailableError(text);
}

rocksdb::Slice SliceOf(const std::string& bytes) { return {bytes.data(), bytes.size()}; }

// The first key of a generation; the last one has no first key after it.
std::string FirstKeyOf(Generation generation) { return EncodeKey(BlockKey{{}, generation, LayerId{}}); }

rocksdb::Options FolderOptions(int64_t capacity_bytes) {
  const int64_t share = capacity_bytes / 16;
  rocksdb::Options options;
  options.create_if_missing = true;
  options.info_log_level = rocksdb::WARN_LEVEL;
  options.keep_log_file_num = 1;
  options.max_background_jobs = 2;
  options.avoid_flush_during_shutdown = true;  // the folder is a cache
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = std::clamp<int64_t>(share, 1 << 20, 64 << 20);
  options.enable_blob_files = true;
  options.min_blob_size = 0;
  options.blob_file_size = std::clamp<int64_t>(share, 1 << 20, 256 << 20);
  options.enable_blob_garbage_collection = true;
  options.blob_garbage_collection_force_threshold = 0.5;
  return options;
}

// One writer thread, so that writes and drops of a key keep their order; a few readers; one thread that collects
// garbage. The ledger, not RocksDB, says what is stored: a dropped block is gone at once, whatever the folder holds.
class RocksdbTier final : public KvTier {
 public:
  RocksdbTier(std::unique_ptr<rocksdb::DB> db, std::string folder, int64_t capacity_bytes)
      : db_(std::move(db)), folder_(std::move(folder)), ledger_(capacity_bytes) {
    threads_.emplace_back("rocks-write", [this] { RunAll(writes_); });
    threads_.emplace_back("rocks-collect", [this] { RunAll(collections_); });
    for (int i = 0; i < kReaders; ++i) {
      threads_.emplace_back(absl::StrCat("rocks-read-", i), [this] { RunAll(reads_); });
    }
  }

  ~RocksdbTier() override {
    reads_.Close();
    writes_.Close();
    for (Thread& thread : threads_) {
      if (&thread != &threads_[1]) thread.Join();
    }
    collections_.Close();  // after the writer, which asks for collections
    rocksdb::CancelAllBackgroundWork(db_.get(), /*wait=*/false);
    threads_[1].Join();
    db_->Close().PermitUncheckedError();
    db_.reset();
    const rocksdb::Status status = rocksdb::DestroyDB(folder_, FolderOptions(ledger_.Usage().capacity_bytes));
    if (!status.ok()) LOG(WARNING) << "rocksdb tier left files behind" << RocksStatus(status, folder_);
  }

  absl::string_view name() const override { return "rocksdb"; }

  void Write(std::vector<StoredBlock> blocks, WriteDone done) override {
    WriteJob job;
    job.statuses.resize(blocks.size());
    for (size_t i = 0; i < blocks.size(); ++i) {
      job.statuses[i] = ledger_.Begin(blocks[i].key, static_cast<int64_t>(blocks[i].bytes->size()));
      if (job.statuses[i].ok()) job.taken.push_back(i);
    }
    if (job.taken.empty()) return done(std::move(job.statuses));
    job.blocks = std::move(blocks);
    job.done = std::move(done);
    auto shared = std::make_shared<WriteJob>(std::move(job));
    if (writes_.TryPush([this, shared] { Put(*shared); })) return;
    End(*shared, absl::ResourceExhaustedError("rocksdb tier: its write queue is full; the disk is too slow"));
  }

  void Read(std::vector<BlockKey> keys, ReadDone done) override {
    auto held_keys = std::make_shared<std::vector<BlockKey>>(std::move(keys));
    auto held_done = std::make_shared<ReadDone>(std::move(done));
    const bool any = std::any_of(held_keys->begin(), held_keys->end(), [&](const auto& k) { return ledger_.Holds(k); });
    if (!any) return Get(*held_keys, *held_done);  // touches no disk
    if (reads_.TryPush([this, held_keys, held_done] { Get(*held_keys, *held_done); })) return;
    (*held_done)(std::vector<absl::StatusOr<SharedBytes>>(
        held_keys->size(), absl::UnavailableError("rocksdb tier: its read queue is full; the disk is too slow")));
  }

  void Drop(Generation generation) override {
    if (!ledger_.Drop(generation)) return;
    {
      absl::MutexLock lock(&dropped_mutex_);
      dropped_.push_back(generation);
    }
    writes_.TryPush([this] { DeleteDropped(); });  // full: a write that waits there will do it
  }

  TierUsage Usage() override { return ledger_.Usage(); }

 private:
  using Job = std::function<void()>;
  struct WriteJob {
    std::vector<StoredBlock> blocks;
    std::vector<absl::Status> statuses;
    std::vector<size_t> taken;  // indexes of the blocks that the ledger took
    WriteDone done;
  };

  static void RunAll(BoundedQueue<Job>& queue) {
    while (std::optional<Job> job = queue.Pop()) (*job)();
  }

  // Thread: writer.
  void Put(WriteJob& job) {
    DeleteDropped();
    if (absl::Status status = RoomInFolder(); !status.ok()) return End(job, status);
    rocksdb::WriteBatch batch;
    rocksdb::Status status;
    for (size_t i : job.taken) {
      const StoredBlock& block = job.blocks[i];
      if (status.ok() && ledger_.Awaits(block.key)) {
        status = batch.Put(SliceOf(EncodeKey(block.key)), SliceOf(*block.bytes));
      }
    }
    if (status.ok()) status = db_->Write(NoLog(), &batch);
    End(job, RocksStatus(status, absl::StrCat("writing ", job.taken.size(), " blocks")));
  }

  void End(WriteJob& job, const absl::Status& status) {
    for (size_t i : job.taken) {
      job.statuses[i] = status;
      ledger_.End(job.blocks[i].key, status.ok());
    }
    job.blocks.clear();
    job.done(std::move(job.statuses));
  }

  // Thread: reader, or the caller's if nothing is held.
  void Get(const std::vector<BlockKey>& keys, ReadDone& done) {
    std::vector<absl::StatusOr<SharedBytes>> answers;
    answers.reserve(keys.size());
    for (const BlockKey& key : keys) answers.push_back(GetOne(key));
    done(std::move(answers));
  }
  absl::StatusOr<SharedBytes> GetOne(const BlockKey& key) {
    if (!ledger_.Holds(key)) return absl::NotFoundError(absl::StrCat("rocksdb tier has no block of ", KeyText(key)));
    auto bytes = std::make_shared<std::string>();
    const std::string name = EncodeKey(key);
    const rocksdb::Status status =
        db_->Get(rocksdb::ReadOptions(), db_->DefaultColumnFamily(), SliceOf(name), bytes.get());
    if (!status.ok()) return RocksStatus(status, absl::StrCat("reading ", KeyText(key)));
    return SharedBytes(std::move(bytes));
  }

  // Thread: writer. All keys of a generation lie together, so one range names them.
  void DeleteDropped() {
    std::vector<Generation> dropped;
    {
      absl::MutexLock lock(&dropped_mutex_);
      dropped.swap(dropped_);
    }
    for (Generation generation : dropped) {
      const std::string begin = FirstKeyOf(generation);
      const std::string end = Value(generation) == ~uint64_t{0} ? std::string(kEncodedKeyBytes + 1, '\xff')
                                                                : FirstKeyOf(Generation{Value(generation) + 1});
      const rocksdb::Status status =
          db_->DeleteRange(NoLog(), db_->DefaultColumnFamily(), SliceOf(begin), SliceOf(end));
      if (!status.ok()) LOG(WARNING) << "rocksdb tier could not delete" << RocksStatus(status, "DeleteRange");
    }
  }

  // Thread: writer. Asks for a collection where garbage grows, refuses where it has grown too far.
  absl::Status RoomInFolder() {
    const TierUsage usage = ledger_.Usage();
    uint64_t blob_bytes = 0;
    if (!db_->GetIntProperty(rocksdb::DB::Properties::kTotalBlobFileSize, &blob_bytes)) return absl::OkStatus();
    const int64_t garbage = static_cast<int64_t>(blob_bytes) - usage.bytes;
    const auto bound = static_cast<int64_t>(kGarbageFactor * static_cast<double>(usage.capacity_bytes)) + kGarbageSlack;
    if (garbage > bound / 2) collections_.TryPush([this] { Collect(); });  // full: one is already waiting
    if (garbage <= bound) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("rocksdb tier: ", garbage, " bytes of dropped blocks in ", folder_, " are still being collected"));
  }

  // Thread: collector. Deleted keys leave the tree, and blob files that nothing names any more leave the folder.
  void Collect() {
    rocksdb::CompactRangeOptions options;
    options.exclusive_manual_compaction = false;
    options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
    options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
    options.blob_garbage_collection_age_cutoff = 1.0;  // move what is left out of every blob file
    const rocksdb::Status status = db_->CompactRange(options, nullptr, nullptr);
    if (!status.ok() && !status.IsIncomplete() && !status.IsShutdownInProgress()) {
      LOG(WARNING) << "rocksdb tier could not collect garbage" << RocksStatus(status, "CompactRange");
    }
  }

  static rocksdb::WriteOptions NoLog() {
    rocksdb::WriteOptions options;
    options.disableWAL = true;
    return options;
  }

  std::unique_ptr<rocksdb::DB> db_;
  const std::string folder_;
  BlockLedger ledger_;
  absl::Mutex dropped_mutex_;
  std::vector<Generation> dropped_;  // to be deleted by the writer; protected by dropped_mutex_
  BoundedQueue<Job> writes_{kQueuedCalls};
  BoundedQueue<Job> reads_{kQueuedCalls};
  BoundedQueue<Job> collections_{1};
  std::vector<Thread> threads_;  // writer, collector, readers
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> MakeRocksdbTier(const TierOptions& options) {
  if (options.rocksdb_dir.empty()) return absl::InvalidArgumentError("rocksdb_dir is empty; name a folder");
  if (options.rocksdb_bytes <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rocksdb_bytes is ", options.rocksdb_bytes, "; the rocksdb tier needs a capacity above 0"));
  }
  const std::string what = absl::StrCat("rocksdb_dir '", options.rocksdb_dir, "'");
  std::error_code error;
  std::filesystem::create_directories(options.rocksdb_dir, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat(what, ": cannot be created: ", error.message()));
  const rocksdb::Options folder = FolderOptions(options.rocksdb_bytes);
  // KV is a cache: what an earlier process left names requests that are gone.
  rocksdb::Status status = rocksdb::DestroyDB(options.rocksdb_dir, folder);
  if (!status.ok()) return RocksStatus(status, absl::StrCat(what, ": wiping (does another process use it?)"));
  rocksdb::DB* db = nullptr;
  status = rocksdb::DB::Open(folder, options.rocksdb_dir, &db);
  if (!status.ok()) return RocksStatus(status, absl::StrCat(what, ": opening"));
  return std::make_unique<RocksdbTier>(std::unique_ptr<rocksdb::DB>(db), options.rocksdb_dir, options.rocksdb_bytes);
}

}  // namespace interlace
