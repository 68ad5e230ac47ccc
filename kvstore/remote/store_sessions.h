// StoreSessions: who is attached to a kvstore.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "common/entropy.h"

namespace interlace {

enum class SessionId : uint64_t {};  // drawn at random; 0 is never one

// Owned by the store server; any thread. A session owns no blocks: it says that a client is there, and stale messages
// of one that is not, or of an earlier life of the store, are told apart by it.
class StoreSessions {
 public:
  explicit StoreSessions(std::unique_ptr<Entropy> entropy) : entropy_(std::move(entropy)) {}

  SessionId Open() {
    absl::MutexLock lock(&mutex_);
    while (true) {
      const SessionId session{entropy_->Next()};
      if (session != SessionId{0} && open_.insert(session).second) return session;
    }
  }
  void Close(SessionId session) {
    absl::MutexLock lock(&mutex_);
    open_.erase(session);
  }
  bool Knows(SessionId session) const {
    absl::MutexLock lock(&mutex_);
    return open_.contains(session);
  }
  int64_t count() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(open_.size());
  }

 private:
  mutable absl::Mutex mutex_;
  std::unique_ptr<Entropy> entropy_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<SessionId> open_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace interlace
