// MemoryStore: a LeadStore of this process, which the test cuts off.
#pragma once

#include <atomic>
#include <optional>
#include <string>

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

 private:
  absl::Mutex mutex_;
  std::optional<StoredRecord> record_;  // protected by mutex_
  int versions_ = 0;                    // protected by mutex_
};

class MemoryStore final : public LeadStore {
 public:
  explicit MemoryStore(SharedRecord& record) : record_(record) {}
  void Cut(bool cut) { cut_ = cut; }

  absl::StatusOr<std::optional<StoredRecord>> Read(absl::Duration) override {
    if (cut_) return absl::UnavailableError("cut off");
    return record_.Get();
  }
  absl::StatusOr<std::string> Write(const LeadRecord& record, const std::string& version, absl::Duration) override {
    if (cut_) return absl::UnavailableError("cut off");
    return record_.Put(record, version);
  }

 private:
  SharedRecord& record_;
  std::atomic<bool> cut_{false};
};

}  // namespace interlace
