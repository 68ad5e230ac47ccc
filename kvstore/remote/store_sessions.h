// StoreSessions: who is attached to a kvstore.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "common/entropy.h"
#include "common/transport.h"

namespace interlace {

enum class SessionId : uint64_t {};  // drawn at random; 0 is never one

// Owned by the store server; any thread. A session owns no blocks: it says that a client is there, and stale messages
// of one that is not, or of an earlier life of the store, are told apart by it. It is its client's: messages that name
// it count from one connection alone, the first that names it.
class StoreSessions {
 public:
  explicit StoreSessions(std::unique_ptr<Entropy> entropy) : entropy_(std::move(entropy)) {}

  SessionId Open() {
    absl::MutexLock lock(&mutex_);
    while (true) {
      const SessionId session{entropy_->Next()};
      if (session != SessionId{0} && open_.emplace(session, std::nullopt).second) return session;
    }
  }
  void Close(SessionId session) {
    absl::MutexLock lock(&mutex_);
    open_.erase(session);
  }
  // Whether a message that names the session and came over this connection is to be taken.
  bool Admits(SessionId session, PeerId from) {
    absl::MutexLock lock(&mutex_);
    const auto open = open_.find(session);
    if (open == open_.end()) return false;
    if (!open->second) open->second = from;
    return *open->second == from;
  }
  int64_t count() const {
    absl::MutexLock lock(&mutex_);
    return static_cast<int64_t>(open_.size());
  }

 private:
  mutable absl::Mutex mutex_;
  std::unique_ptr<Entropy> entropy_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<SessionId, std::optional<PeerId>> open_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace interlace
