// "rocksdb": blocks in a folder on a local disk, kept over restarts.
#include "kvstore/tier/rocksdb.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/bounded_queue.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "common/thread.h"
#include "kvstore/tier/block_index.h"
#include "kvstore/tier/rocksdb_folder.h"

namespace interlace {
namespace {

constexpr int kReaders = 2;
constexpr size_t kKeptAtOnce = 4096;  // blocks
constexpr size_t kQueuedReads = 4096;
constexpr int64_t kLeastBytes = 8 << 20;
constexpr absl::Duration kRetryAfter = absl::Milliseconds(500);  // while the disk is sick, or stays full
constexpr absl::Duration kLookAgain = absl::Milliseconds(5);     // at a full disk: files are deleted in the background

// The writer thread alone changes the folder: it writes what Put queued and deletes what the index gave up, in the
// order in which the index decided; it collects garbage, and it brings a sick database back. Readers read. A block that
// waits to be written is answered from memory. The index says what is held; the folder may hold more for a while.
class RocksdbTier final : public KvTier {
 public:
  explicit RocksdbTier(RocksFolder::Options options)
      : options_(std::move(options)),
        index_(options_.bound_bytes / 2),
        batch_bytes_(BatchBytes(options_.bound_bytes)) {}

  // A disk that fails now may be well later. What is wrong with the folder itself is not.
  absl::Status Start() {
    const absl::Status opened = OpenFolder();
    if (absl::IsUnavailable(opened) || absl::IsResourceExhausted(opened)) {
      LOG(WARNING) << "rocksdb tier starts without its disk, and tries on" << opened;
      sick_ = true;
    } else {
      RETURN_IF_ERROR(opened);
    }
    threads_.emplace_back("rocks-write", [this] { RunWriter(); });
    for (int i = 0; i < kReaders; ++i) {
      threads_.emplace_back(absl::StrCat("rocks-read-", i), [this] {
        while (std::optional<Job> job = reads_.Pop()) (*job)();
      });
    }
    return absl::OkStatus();
  }

  // What was put is written first.
  ~RocksdbTier() override {
    reads_.Close();
    stop_collecting_ = true;
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    for (Thread& thread : threads_) thread.Join();
  }

  absl::string_view name() const override { return "rocksdb"; }
  bool Wants() const override { return !sick_.load() && !full_.load() && queued_bytes_.load() < QueueBytes() / 2; }

  void Probe(std::vector<BlockKey> keys, ProbeDone done) override {
    std::vector<bool> held;
    held.reserve(keys.size());
    {
      absl::MutexLock lock(&mutex_);
      for (const BlockKey& key : keys) held.push_back(open_ && index_.Holds(key));
    }
    done(std::move(held));
  }

  void Put(std::vector<StoredBlock> blocks, PutDone done) override {
    auto call = std::make_shared<PutCall>();
    call->statuses.resize(blocks.size());
    call->done = std::move(done);
    call->left = blocks.size() + 1;
    {
      absl::MutexLock lock(&mutex_);
      for (size_t i = 0; i < blocks.size(); ++i) {
        call->statuses[i] = Queue(blocks[i], call, i);
        if (!call->statuses[i].ok() || blocks[i].bytes != nullptr) --call->left;  // answered already
      }
      if (--call->left > 0) return;
    }
    call->done(std::move(call->statuses));
  }

  void Get(std::vector<BlockKey> keys, GetDone done) override {
    std::vector<absl::StatusOr<SharedBytes>> answers(keys.size(),
                                                     absl::NotFoundError("rocksdb tier has no such block"));
    std::vector<size_t> on_disk;
    {
      absl::MutexLock lock(&mutex_);
      for (size_t i = 0; i < keys.size(); ++i) {
        if (!index_.Use(keys[i])) continue;
        const auto waiting = waiting_.find(keys[i]);
        if (waiting != waiting_.end()) {
          answers[i] = waiting->second;
        } else {
          on_disk.push_back(i);
        }
      }
    }
    if (on_disk.empty()) return done(std::move(answers));
    auto read =
        std::make_shared<ReadCall>(ReadCall{std::move(keys), std::move(answers), std::move(on_disk), std::move(done)});
    if (reads_.TryPush([this, read] { Read(*read); })) return;
    for (size_t i : read->on_disk) read->answers[i] = absl::UnavailableError("rocksdb tier: too many reads wait");
    read->done(std::move(read->answers));
  }

  void Drop(std::vector<BlockKey> keys) override {
    absl::MutexLock lock(&mutex_);
    for (const BlockKey& key : keys) {
      if (index_.Remove(key)) Forget(key);
    }
  }

  TierUsage Usage() override {
    absl::MutexLock lock(&mutex_);
    return {index_.blocks(), index_.bytes(), index_.capacity_bytes()};
  }

 private:
  using Job = std::function<void()>;
  struct PutCall {
    std::vector<absl::Status> statuses;
    PutDone done;
    size_t left = 0;  // blocks not answered yet, under mutex_
  };
  struct ReadCall {
    std::vector<BlockKey> keys;
    std::vector<absl::StatusOr<SharedBytes>> answers;
    std::vector<size_t> on_disk;
    GetDone done;
  };
  struct Change {
    RocksFolder::Change change;
    std::shared_ptr<PutCall> call;  // of a put
    size_t slot = 0;
  };

  static int64_t BatchBytes(int64_t bound) { return std::clamp<int64_t>(bound / 64, 64 << 10, 1 << 20); }
  int64_t QueueBytes() const { return 16 * batch_bytes_; }
  int64_t MostBlockBytes() const { return options_.bound_bytes / 16; }

  // Takes block.bytes iff the block waits to be written; then its status comes later.
  absl::Status Queue(StoredBlock& block, const std::shared_ptr<PutCall>& call, size_t slot)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto size = static_cast<int64_t>(block.bytes->size());
    if (stopping_ || !open_ || sick_.load())
      return absl::UnavailableError("rocksdb tier: the disk takes no writes now");
    if (index_.Use(block.key)) return absl::OkStatus();
    if (size > MostBlockBytes()) {
      return absl::ResourceExhaustedError(absl::StrCat("rocksdb tier takes blocks of at most ", MostBlockBytes(),
                                                       " bytes (rocksdb_bytes / 16), this one has ", size));
    }
    if (full_.load()) return absl::ResourceExhaustedError("rocksdb tier: no room on the disk");
    if (queued_bytes_.load() + size > QueueBytes()) {
      return absl::ResourceExhaustedError("rocksdb tier: its write queue is full; the disk is too slow");
    }
    std::vector<BlockKey> evicted;
    if (index_.Add(block.key, block.index, size, &evicted) == BlockIndex::Added::kTooLarge) {
      return absl::ResourceExhaustedError("rocksdb tier: no room on the disk");
    }
    for (const BlockKey& key : evicted) Forget(key);
    queued_bytes_ += size;
    waiting_[block.key] = block.bytes;
    changes_.push_back({{block.key, block.index, std::move(block.bytes)}, call, slot});
    return absl::OkStatus();
  }

  // The index gave the block up.
  void Forget(const BlockKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    waiting_.erase(key);  // its change still waits, and finds that it is not wanted
    changes_.push_back({{key, 0, nullptr}, nullptr, 0});
  }

  void Read(ReadCall& read) {
    for (size_t i : read.on_disk) {
      if (!EnterFolder()) {
        read.answers[i] = absl::UnavailableError("rocksdb tier: the database is being opened again");
        continue;
      }
      read.answers[i] = folder_->Read(read.keys[i]);
      absl::MutexLock lock(&mutex_);
      --readers_;
      const absl::StatusCode code = read.answers[i].status().code();
      const bool lost = code == absl::StatusCode::kNotFound || code == absl::StatusCode::kDataLoss;
      if (lost && !waiting_.contains(read.keys[i]) && index_.Remove(read.keys[i])) Forget(read.keys[i]);
    }
    read.done(std::move(read.answers));
  }
  bool EnterFolder() {
    absl::MutexLock lock(&mutex_);
    if (open_) ++readers_;
    return open_;
  }

  // ---- Thread: writer.

  void RunWriter() {
    while (true) {
      std::vector<Change> changes = NextChanges();
      if (sick_.load() && !Recover(changes)) {
        Finish(std::move(changes), absl::UnavailableError("rocksdb tier: the disk takes no writes now"));
        if (Stopped()) return;
        continue;
      }
      if (changes.empty() && Stopped()) return KeepEarned();
      WriteAll(std::move(changes));
      if (full_.load() || unchecked_bytes_ > batch_bytes_) KeepWithinBound();
    }
  }

  // At the end, so that it costs no write for each use. Who is killed loses no more than what was earned since.
  void KeepEarned() {
    std::vector<BlockIndex::Block> unkept;
    {
      absl::MutexLock lock(&mutex_);
      if (!open_) return;
      unkept = index_.TakeUnkept();
    }
    for (size_t at = 0; at < unkept.size(); at += kKeptAtOnce) {
      const absl::Status kept = folder_->Keep(absl::MakeSpan(unkept).subspan(at, kKeptAtOnce));
      if (kept.ok()) continue;
      LOG(WARNING) << "rocksdb tier does not keep how often its blocks were used" << kept;
      return;
    }
  }

  bool Stopped() {
    absl::MutexLock lock(&mutex_);
    return stopping_ && changes_.empty();
  }

  // Up to a batch. Waits for changes, but while the disk is sick or full no longer than kRetryAfter.
  std::vector<Change> NextChanges() {
    absl::MutexLock lock(&mutex_);
    const auto due = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return stopping_ || (!changes_.empty() && !sick_.load()) || (sick_.load() && !noticed_);
    };
    const absl::Duration patience = sick_.load() ? kRetryAfter : full_.load() ? full_wait_ : absl::InfiniteDuration();
    noticed_ = sick_.load();
    mutex_.AwaitWithTimeout(absl::Condition(&due), patience);
    noticed_ = sick_.load();
    std::vector<Change> taken;
    for (int64_t bytes = 0; !changes_.empty() && bytes < batch_bytes_;) {
      Change& next = changes_.front();
      if (next.change.bytes != nullptr) bytes += static_cast<int64_t>(next.change.bytes->size());
      taken.push_back(std::move(next));
      changes_.pop_front();
    }
    return taken;
  }

  // True iff the put is still what the index wants.
  bool Wanted(const Change& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto it = waiting_.find(change.change.key);
    return it != waiting_.end() && it->second == change.change.bytes;
  }

  void WriteAll(std::vector<Change> changes) {
    std::vector<RocksFolder::Change> batch;
    int64_t bytes = 0;
    {
      absl::MutexLock lock(&mutex_);
      for (const Change& change : changes) {
        if (change.change.bytes != nullptr && !Wanted(change)) continue;
        batch.push_back(change.change);
        if (change.change.bytes != nullptr) bytes += static_cast<int64_t>(change.change.bytes->size());
      }
    }
    absl::Status status;
    if (bytes > 0 && !HasRoom(bytes)) {
      status = absl::ResourceExhaustedError("rocksdb tier: no room on the disk");
    } else if (!batch.empty()) {
      status = folder_->Write(batch);
      if (status.ok()) {
        unchecked_bytes_ += bytes + 64 * static_cast<int64_t>(batch.size());
      } else {
        LOG(WARNING) << "rocksdb tier could not write" << Field("changes", batch.size()) << status;
        sick_ = true;
        status = absl::UnavailableError(status.message());
      }
    }
    Finish(std::move(changes), status);
  }

  bool HasRoom(int64_t bytes) {
    if (known_bytes_ + unchecked_bytes_ + bytes <= bound_ / 8 * 7) return true;
    KeepWithinBound();
    return known_bytes_ + bytes <= bound_ / 8 * 7;
  }

  // Answers the puts. Deletes that were not written go back to the front of the queue, unless the tier is closing: then
  // the next process finds those blocks again, which is no harm.
  void Finish(std::vector<Change> changes, const absl::Status& status) {
    std::vector<std::shared_ptr<PutCall>> answered;
    {
      absl::MutexLock lock(&mutex_);
      for (auto it = changes.rbegin(); it != changes.rend(); ++it) {
        Change& change = *it;
        if (change.change.bytes == nullptr) {
          if (!status.ok() && !stopping_) changes_.push_front(std::move(change));
          continue;
        }
        queued_bytes_ -= static_cast<int64_t>(change.change.bytes->size());
        const bool wanted = Wanted(change);
        if (wanted) waiting_.erase(change.change.key);
        if (wanted && !status.ok()) index_.Remove(change.change.key);
        change.call->statuses[change.slot] = status;
        if (--change.call->left == 0) answered.push_back(std::move(change.call));
      }
    }
    changes.clear();
    for (const std::shared_ptr<PutCall>& call : answered) call->done(std::move(call->statuses));
  }

  // Follows the disk: gives up blocks where it has become smaller, and collects what deleted blocks left behind once
  // the folder has three quarters of its bound.
  void KeepWithinBound() {
    unchecked_bytes_ = 0;
    bound_ = folder_->Bound();
    std::vector<RocksFolder::Change> deletes;
    {
      absl::MutexLock lock(&mutex_);
      std::vector<BlockKey> evicted;
      index_.SetCapacity(bound_ / 2, &evicted);
      for (const BlockKey& key : evicted) {
        waiting_.erase(key);
        deletes.push_back({key, 0, nullptr});
      }
    }
    absl::Status status;
    if (!deletes.empty()) status = folder_->Write(deletes);
    known_bytes_ = folder_->Bytes();
    if (status.ok() && known_bytes_ > bound_ / 4 * 3) {
      status = folder_->Collect(bound_ / 8 * 5, stop_collecting_);
      known_bytes_ = folder_->Bytes();
    }
    if (!status.ok()) {
      LOG(WARNING) << "rocksdb tier could not make room" << status;
      sick_ = true;
    }
    const bool full = known_bytes_ + 2 * batch_bytes_ > bound_ / 8 * 7;
    full_wait_ = full && full_.load() ? std::min(2 * full_wait_, kRetryAfter) : kLookAgain;
    full_ = full;
    SayIfStuck(full_wait_ == kRetryAfter);
  }

  // A folder is full again and again; one that stays so for a second holds the tier up.
  void SayIfStuck(bool stuck) {
    if (std::exchange(stuck_, stuck) == stuck) return;
    if (!stuck) {
      LOG(INFO) << "rocksdb tier has room on its disk again" << Field("folder", options_.path);
      return;
    }
    LOG(WARNING) << "rocksdb tier takes no blocks: its disk has no room" << Field("folder", options_.path)
                 << Field("folder_bytes", known_bytes_) << Field("may_grow_to", bound_)
                 << Field("rocksdb_bytes", options_.bound_bytes);
  }

  // True iff the database takes writes again. `changes` were taken and not written yet. The database is opened anew:
  // its own Resume() can wait for ever for a flush that the error left behind (docs/decisions/rocksdb-tier.md).
  bool Recover(std::vector<Change>& changes) {
    if (folder_ != nullptr) {
      if (!folder_->TryDisk().ok()) return false;  // reads go on
      CloseFolder(changes);
    }
    if (!OpenFolder().ok()) return false;
    sick_ = false;
    LOG(INFO) << "rocksdb tier takes writes again" << Field("folder", options_.path);
    KeepWithinBound();
    return !sick_.load();
  }

  // Everything that waits is given up: what the folder holds when it is opened again counts.
  void CloseFolder(std::vector<Change>& changes) {
    {
      absl::MutexLock lock(&mutex_);
      open_ = false;
      const auto unread = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return readers_ == 0; };
      mutex_.Await(absl::Condition(&unread));
      for (Change& change : changes_) changes.push_back(std::move(change));
      changes_.clear();
    }
    folder_.reset();
    std::erase_if(changes, [](const Change& change) { return change.change.bytes == nullptr; });
    Finish(std::exchange(changes, {}), absl::UnavailableError("rocksdb tier: the database is being opened again"));
  }

  // Opens the folder and lists what it holds.
  absl::Status OpenFolder() {
    ASSIGN_OR_RETURN(folder_, RocksFolder::Open(options_, [this] {
                       absl::MutexLock lock(&mutex_);
                       sick_ = true;
                     }));
    std::vector<BlockIndex::Block> found;
    const absl::Status listed = folder_->ForEach([&](const BlockIndex::Block& block) { found.push_back(block); });
    if (!listed.ok()) {
      folder_.reset();
      return listed;
    }
    known_bytes_ = folder_->Bytes();
    bound_ = folder_->Bound();
    absl::MutexLock lock(&mutex_);
    for (BlockIndex::Block& block : found) {  // this process knows better, where it had the folder open before
      if (const BlockIndex::Earned known = index_.EarnedBy(block.key); known.uses > 0) block.earned = known;
    }
    index_ = BlockIndex(options_.bound_bytes / 2);
    std::vector<BlockKey> evicted;
    index_.Restore(std::move(found), &evicted);
    for (const BlockKey& key : evicted) Forget(key);
    open_ = true;
    return absl::OkStatus();
  }

  const RocksFolder::Options options_;
  std::unique_ptr<RocksFolder> folder_;  // changed by the writer while open_ is false

  mutable absl::Mutex mutex_;
  BlockIndex index_ ABSL_GUARDED_BY(mutex_);
  std::deque<Change> changes_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<BlockKey, SharedBytes> waiting_ ABSL_GUARDED_BY(mutex_);  // held by the index, not written yet
  int readers_ ABSL_GUARDED_BY(mutex_) = 0;                                     // inside folder_
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  bool noticed_ ABSL_GUARDED_BY(mutex_) = false;  // the writer knows that the disk is sick
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> queued_bytes_{0};
  std::atomic<bool> sick_{false};  // writes fail
  std::atomic<bool> full_{false};  // no more fits into the bound, or onto the disk
  std::atomic<bool> stop_collecting_{false};

  // Of the writer.
  const int64_t batch_bytes_;
  int64_t bound_ = 0;            // what the folder may grow to now
  int64_t known_bytes_ = 0;      // of the folder, when it was last looked at
  int64_t unchecked_bytes_ = 0;  // written since
  absl::Duration full_wait_ = kLookAgain;
  bool stuck_ = false;  // full for longer than a collection takes

  BoundedQueue<Job> reads_{kQueuedReads};
  std::vector<Thread> threads_;  // writer, readers
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> MakeRocksdbTierOn(const TierOptions& options, rocksdb::Env* env) {
  if (options.rocksdb_dir.empty()) return absl::InvalidArgumentError("rocksdb_dir is empty; name a folder");
  if (options.rocksdb_bytes < kLeastBytes) {
    return absl::InvalidArgumentError(absl::StrCat("rocksdb_bytes is ", options.rocksdb_bytes,
                                                   "; the rocksdb tier needs at least ", kLeastBytes, " (8MiB)"));
  }
  auto tier = std::make_unique<RocksdbTier>(RocksFolder::Options{options.rocksdb_dir, options.rocksdb_bytes, env});
  RETURN_IF_ERROR(tier->Start());
  return tier;
}

absl::StatusOr<std::unique_ptr<KvTier>> MakeRocksdbTier(const TierOptions& options) {
  return MakeRocksdbTierOn(options, nullptr);
}

}  // namespace interlace
