#include "kvstore/tier/rocksdb_folder.h"

#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <bit>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "kvstore/byte_order.h"

namespace interlace {
namespace {

constexpr absl::string_view kMarkerName = "INTERLACE_KV";
constexpr absl::string_view kMarkerText = "interlace kv cache, format ";
constexpr int kFormat = 3;
constexpr int kOldestRead = 2;       // has no blocks that say what they have earned
constexpr size_t kMetaBytes = 8;     // index, size of the stored form
constexpr size_t kEarnedBytes = 20;  // and uses, clock at the last
constexpr double kMostClock = 1e12;  // more is damage
constexpr size_t kProbeBytes = size_t{64} << 10;

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat("rocksdb: ", what, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  return absl::UnavailableError(text);
}

rocksdb::Slice SliceOf(const std::string& bytes) { return {bytes.data(), bytes.size()}; }

class ErrorListener final : public rocksdb::EventListener {
 public:
  explicit ErrorListener(absl::AnyInvocable<void()> failed) : failed_(std::move(failed)) {}
  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* status) override {
    if (status->IsShutdownInProgress()) return;  // work that closing the database cut short
    LOG(WARNING) << "rocksdb stopped taking writes" << Field("reason", static_cast<int>(reason))
                 << FromRocks(*status, "background work");
    failed_();
  }
  // The tier resumes at its own pace.
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status, bool* automatic) override {
    *automatic = false;
  }

 private:
  absl::AnyInvocable<void()> failed_;
};

// What RocksDB complains of goes to our log; what matters of it comes as a status, too. Its own log file would lie on
// the same disk, and where RocksDB is built with assertions, as Debian's is, the second line that a full disk does not
// take aborts the process.
class RocksLog final : public rocksdb::Logger {
 public:
  RocksLog() : Logger(rocksdb::ERROR_LEVEL) {}
  void Logv(const char*, va_list) override {}  // of no level: headers
  void Logv(rocksdb::InfoLogLevel level, const char* format, va_list arguments) override {
    if (level < rocksdb::ERROR_LEVEL) return;
    char text[512];
    std::vsnprintf(text, sizeof text, format, arguments);
    LOG(DEBUG) << "rocksdb complains" << Field("text", text);
  }
};

// What the bound is divided into: docs/decisions/rocksdb-tier.md.
int64_t WriteBufferBytes(int64_t bound) { return std::clamp<int64_t>(bound / 64, 64 << 10, 32 << 20); }
int64_t BlobFileBytes(int64_t bound) { return std::clamp<int64_t>(bound / 64, 64 << 10, 256 << 20); }

rocksdb::Options DatabaseOptions(const RocksFolder::Options& folder) {
  rocksdb::Options options;
  if (folder.env != nullptr) options.env = folder.env;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.info_log = std::make_shared<RocksLog>();
  options.max_manifest_file_size = 256 << 10;
  options.max_background_jobs = 2;
  options.max_open_files = 256;
  options.allow_fallocate = false;  // so that the folder takes what its files say
  options.avoid_flush_during_shutdown = true;
  options.max_bgerror_resume_count = 0;
  options.wal_bytes_per_sync = 1 << 20;
  options.bytes_per_sync = 1 << 20;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = static_cast<size_t>(WriteBufferBytes(folder.bound_bytes));
  options.max_write_buffer_number = 2;
  // A log file is let go of when both families were flushed; the family of keys fills a buffer seldom, and is flushed
  // when the logs reach this. Not by atomic_flush: docs/decisions/rocksdb-tier.md.
  options.max_total_wal_size = 2 * options.write_buffer_size;
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(4 << 20);
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

rocksdb::ColumnFamilyOptions PayloadOptions(const rocksdb::Options& base, int64_t bound) {
  rocksdb::ColumnFamilyOptions options(base);
  options.enable_blob_files = true;
  options.min_blob_size = 0;
  options.blob_file_size = static_cast<uint64_t>(BlobFileBytes(bound));
  return options;
}

std::string EncodeMeta(const BlockIndex::Block& block) {
  std::string meta(block.earned.uses > 0 ? kEarnedBytes : kMetaBytes, '\0');
  StoreLittle(block.index, &meta[0]);
  StoreLittle(static_cast<uint32_t>(block.bytes), &meta[4]);
  if (block.earned.uses <= 0) return meta;
  StoreLittle(block.earned.uses, &meta[8]);
  StoreLittle(std::bit_cast<uint64_t>(block.earned.clock), &meta[12]);
  return meta;
}

// Of what is damaged, no more than the block's rank is lost.
bool DecodeMeta(const rocksdb::Slice& meta, BlockIndex::Block* block) {
  if (meta.size() != kMetaBytes && meta.size() != kEarnedBytes) return false;
  block->index = LoadLittle<int32_t>(meta.data());
  block->bytes = LoadLittle<uint32_t>(meta.data() + 4);
  if (meta.size() == kMetaBytes) return true;
  const BlockIndex::Earned earned{LoadLittle<int32_t>(meta.data() + 8),
                                  std::bit_cast<double>(LoadLittle<uint64_t>(meta.data() + 12))};
  if (earned.clock >= 0 && earned.clock < kMostClock) block->earned = earned;
  return true;
}

// Holds nothing, or no more than the begin of our mark: a process died while it wrote that.
bool IsNewFolder(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_empty(path, error)) return true;
  for (std::filesystem::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    if (at->path().filename() != std::string(kMarkerName)) return false;
  }
  std::string text;
  return !error &&
         rocksdb::ReadFileToString(rocksdb::Env::Default(), absl::StrCat(path, "/", kMarkerName), &text).ok() &&
         text.size() < kMarkerText.size() && absl::StartsWith(kMarkerText, text);
}

}  // namespace

struct RocksFolder::Database {
  std::shared_ptr<ErrorListener> listener;
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* meta = nullptr;
  rocksdb::ColumnFamilyHandle* payload = nullptr;

  std::string Path(const std::string& folder) const { return folder + "/db"; }
  rocksdb::Status Open(const RocksFolder::Options& folder) {
    rocksdb::Options options = DatabaseOptions(folder);
    options.listeners.push_back(listener);
    std::vector<rocksdb::ColumnFamilyHandle*> families;
    rocksdb::DB* opened = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(
        options, Path(folder.path),
        {{rocksdb::kDefaultColumnFamilyName, options}, {"payload", PayloadOptions(options, folder.bound_bytes)}},
        &families, &opened);
    if (!status.ok()) return status;
    db.reset(opened);
    meta = families[0];
    payload = families[1];
    return status;
  }
  ~Database() {
    if (db == nullptr) return;
    rocksdb::CancelAllBackgroundWork(db.get(), /*wait=*/true);
    for (rocksdb::ColumnFamilyHandle* family : {payload, meta}) {
      db->DestroyColumnFamilyHandle(family).PermitUncheckedError();
    }
    db->Close().PermitUncheckedError();
  }
};

RocksFolder::RocksFolder(const Options& options) : options_(options), database_(std::make_unique<Database>()) {}
RocksFolder::~RocksFolder() = default;

absl::StatusOr<std::unique_ptr<RocksFolder>> RocksFolder::Open(const Options& options,
                                                               absl::AnyInvocable<void()> failed) {
  const std::string what = absl::StrCat("rocksdb_dir '", options.path, "'");
  std::error_code error;
  std::filesystem::create_directories(options.path, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat(what, ": cannot be created: ", error.message()));

  rocksdb::Env* env = options.env != nullptr ? options.env : rocksdb::Env::Default();
  const std::string marker = absl::StrCat(options.path, "/", kMarkerName);
  std::string text;
  int format = 0;
  if (IsNewFolder(options.path)) {
    std::filesystem::permissions(options.path, std::filesystem::perms::owner_all,
                                 error);  // prompts can be told from KV
    const std::string ours = absl::StrCat(kMarkerText, kFormat, "\n");
    RETURN_IF_ERROR(FromRocks(rocksdb::WriteStringToFile(env, ours, marker, /*should_sync=*/true),
                              absl::StrCat(what, ": marking it as ours")));
    format = kFormat;
  } else if (rocksdb::ReadFileToString(env, marker, &text).ok() && absl::StartsWith(text, kMarkerText)) {
    if (!absl::SimpleAtoi(text.substr(kMarkerText.size()), &format)) format = 0;
  } else {
    return absl::FailedPreconditionError(absl::StrCat(what, " holds files that are not ours (it has no ", kMarkerName,
                                                      "); name an empty folder, or empty this one yourself"));
  }
  if (format > kFormat) {
    return absl::FailedPreconditionError(absl::StrCat(what, " has format ", format, ", this version writes ", kFormat,
                                                      "; name another folder, or empty this one yourself"));
  }
  std::unique_ptr<RocksFolder> folder(new RocksFolder(options));
  folder->database_->listener = std::make_shared<ErrorListener>(std::move(failed));
  if (format < kFormat) {
    if (format < kOldestRead) {
      LOG(WARNING) << "kv cache of an older format is cleared" << Field("folder", options.path);
      RETURN_IF_ERROR(FromRocks(rocksdb::DestroyDB(options.path + "/db", DatabaseOptions(options)), what));
    }
    RETURN_IF_ERROR(FromRocks(
        rocksdb::WriteStringToFile(env, absl::StrCat(kMarkerText, kFormat, "\n"), marker, /*should_sync=*/true), what));
  }
  RETURN_IF_ERROR(folder->OpenDatabase());
  return folder;
}

absl::Status RocksFolder::OpenDatabase() {
  const std::string what = absl::StrCat("rocksdb_dir '", options_.path, "': opening");
  rocksdb::Status status = database_->Open(options_);
  if (status.IsCorruption() || status.IsInvalidArgument()) {
    LOG(WARNING) << "damaged kv cache is cleared" << Field("folder", options_.path) << FromRocks(status, "opening");
    RETURN_IF_ERROR(FromRocks(rocksdb::DestroyDB(options_.path + "/db", DatabaseOptions(options_)), what));
    status = database_->Open(options_);
  }
  if (status.IsIOError() && absl::StrContains(absl::AsciiStrToLower(status.ToString()), "lock")) {
    return absl::FailedPreconditionError(absl::StrCat(what, ": another process uses it (", status.ToString(),
                                                      "); give each rank and kvstore a folder of its own"));
  }
  return FromRocks(status, what);
}

absl::Status RocksFolder::ForEach(absl::FunctionRef<void(const BlockIndex::Block&)> body) const {
  const std::unique_ptr<rocksdb::Iterator> at(database_->db->NewIterator(rocksdb::ReadOptions(), database_->meta));
  for (at->SeekToFirst(); at->Valid(); at->Next()) {
    BlockIndex::Block block;
    const absl::string_view name(at->key().data(), at->key().size());
    if (DecodeKey(name, &block.key) && DecodeMeta(at->value(), &block)) body(block);
  }
  return FromRocks(at->status(), "listing the blocks");
}

absl::Status RocksFolder::Keep(absl::Span<const BlockIndex::Block> blocks) {
  rocksdb::WriteBatch batch;
  rocksdb::Status status;
  for (const BlockIndex::Block& block : blocks) {
    status = batch.Put(database_->meta, SliceOf(EncodeKey(block.key)), SliceOf(EncodeMeta(block)));
    if (!status.ok()) break;
  }
  if (status.ok()) status = database_->db->Write(rocksdb::WriteOptions(), &batch);
  return FromRocks(status, absl::StrCat("keeping what ", blocks.size(), " blocks have earned"));
}

absl::Status RocksFolder::Write(absl::Span<const Change> changes) {
  rocksdb::WriteBatch batch;
  rocksdb::Status status;
  for (const Change& change : changes) {
    const std::string name = EncodeKey(change.key);
    if (change.bytes == nullptr) {
      status = batch.Delete(database_->meta, SliceOf(name));
      if (status.ok()) status = batch.Delete(database_->payload, SliceOf(name));
    } else {
      const std::string meta = EncodeMeta({change.key, change.index, static_cast<int64_t>(change.bytes->size()), {}});
      status = batch.Put(database_->meta, SliceOf(name), SliceOf(meta));
      if (status.ok()) status = batch.Put(database_->payload, SliceOf(name), SliceOf(*change.bytes));
    }
    if (!status.ok()) break;
  }
  rocksdb::WriteOptions options;
  options.no_slowdown = false;
  if (status.ok()) status = database_->db->Write(options, &batch);
  return FromRocks(status, absl::StrCat("writing ", changes.size(), " changes"));
}

absl::StatusOr<SharedBytes> RocksFolder::Read(const BlockKey& key) const {
  const std::string name = EncodeKey(key);
  rocksdb::ReadOptions options;
  options.verify_checksums = false;  // the reader verifies the stored form
  rocksdb::PinnableSlice bytes;
  const rocksdb::Status status = database_->db->Get(options, database_->payload, SliceOf(name), &bytes);
  if (!status.ok()) return FromRocks(status, absl::StrCat("reading ", KeyText(key)));
  return SharedBytes(std::make_shared<const std::string>(bytes.data(), bytes.size()));
}

absl::Status RocksFolder::TryDisk() const {
  rocksdb::Env* const env = options_.env == nullptr ? rocksdb::Env::Default() : options_.env;
  const std::string path = options_.path + "/probe";
  const std::string bytes(kProbeBytes, '\0');
  const rocksdb::Status written = rocksdb::WriteStringToFile(env, SliceOf(bytes), path, /*should_sync=*/true);
  (void)env->DeleteFile(path);  // the next probe takes its place
  return FromRocks(written, "trying the disk");
}

int64_t RocksFolder::Bytes() const {
  int64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator at(options_.path, error), end; !error && at != end;
       at.increment(error)) {
    std::error_code gone;  // RocksDB may delete the file right now
    const auto size = at->is_regular_file(gone) ? at->file_size(gone) : 0;
    if (!gone) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

int64_t RocksFolder::Bound() const {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(options_.path, error);
  if (error) return options_.bound_bytes;
  const int64_t reserve = options_.bound_bytes / 8;  // for logs, flushes and collections on their way
  const int64_t disk = Bytes() + static_cast<int64_t>(space.available) - reserve;
  return std::clamp<int64_t>(disk, 0, options_.bound_bytes);
}

absl::Status RocksFolder::Collect(int64_t goal_bytes, std::atomic<bool>& stop) {
  int64_t before = Bytes();
  while (before > goal_bytes && !stop.load()) {
    rocksdb::ColumnFamilyMetaData family;
    database_->db->GetColumnFamilyMetaData(database_->payload, &family);
    std::vector<rocksdb::BlobMetaData>& files = family.blob_files;
    std::sort(files.begin(), files.end(),
              [](const auto& a, const auto& b) { return a.blob_file_number < b.blob_file_number; });
    // As many of the oldest files as hold a sixteenth of the bound in blocks that have to move.
    size_t count = 0;
    for (int64_t moved = 0; count < files.size() && moved <= options_.bound_bytes / 16; ++count) {
      moved += static_cast<int64_t>(files[count].total_blob_bytes - files[count].garbage_blob_bytes);
    }
    rocksdb::CompactRangeOptions compact;
    compact.exclusive_manual_compaction = false;
    compact.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
    compact.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
    compact.blob_garbage_collection_age_cutoff =
        files.empty() ? 1.0 : (static_cast<double>(count) + 0.5) / static_cast<double>(files.size());
    compact.blob_garbage_collection_age_cutoff = std::min(compact.blob_garbage_collection_age_cutoff, 1.0);
    compact.canceled = &stop;
    const rocksdb::Status status = database_->db->CompactRange(compact, database_->payload, nullptr, nullptr);
    if (status.IsIncomplete() || status.IsShutdownInProgress()) break;  // stopped
    if (!status.ok()) return FromRocks(status, "collecting deleted blocks");
    const int64_t after = Bytes();
    if (after >= before) break;
    before = after;
  }
  return absl::OkStatus();
}

}  // namespace interlace
