// MemoryStore: a LeadStore of this process, which the test cuts off.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/election/lead_store.h"

namespace interlace {

// What several stores share; any thread.
class SharedRecord {
 public:
  std::optional<StoredRecord> Get() {
    absl::MutexLock lock(&mutex_);
    return record_;
  }
  absl::StatusOr<std::string> Put(const LeadRecord& record, const std::string& version) {
    absl::MutexLock lock(&mutex_);
    if (version != (record_ ? record_->version : "")) return absl::AbortedError("another one has written");
    record_ = StoredRecord{record, absl::StrCat(++versions_)};
    return record_->version;
  }
  // Until the record says so; false: it does not within 20 s.
  bool AwaitDrained(const std::vector<int32_t>& replicas) {
    absl::MutexLock lock(&mutex_);
    const auto says = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return record_ && record_->record.drained == replicas; };
    return mutex_.AwaitWithTimeout(absl::Condition(&says), absl::Seconds(20));
  }

 private:
  absl::Mutex mutex_;
  std::optional<StoredRecord> record_;  // protected by mutex_
  int versions_ = 0;                    // protected by mutex_
};

class MemoryStore final : public LeadStore {
 public:
  explicit MemoryStore(SharedRecord& record) : record_(record) {}
  void Cut(bool cut) { cut_ = cut; }
  // Whoever calls stands still until it ends, as a thread that gets no processor, whatever `within` says.
  void Stall(bool stall) {
    absl::MutexLock lock(&mutex_);
    stall_ = stall;
  }

  absl::StatusOr<std::optional<StoredRecord>> Read(absl::Duration) override {
    StandStill();
    if (cut_) return absl::UnavailableError("cut off");
    return record_.Get();
  }
  absl::StatusOr<std::string> Write(const LeadRecord& record, const std::string& version, absl::Duration) override {
    StandStill();
    if (cut_) return absl::UnavailableError("cut off");
    return record_.Put(record, version);
  }

 private:
  void StandStill() {
    absl::MutexLock lock(&mutex_);
    const auto runs = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !stall_; };
    mutex_.Await(absl::Condition(&runs));
  }

  SharedRecord& record_;
  std::atomic<bool> cut_{false};
  absl::Mutex mutex_;
  bool stall_ = false;  // protected by mutex_
};

}  // namespace interlace
