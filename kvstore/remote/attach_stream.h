// AttachStream: the client's side of KvStore.Attach, an open gRPC stream that is its session.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace interlace {

class ClusterSecurity;

// Owned by the remote tier. Thread: any; `broken` is called on a thread of gRPC.
// The trap: the destructor waits for the stream to end, so it must not run inside `broken`.
class AttachStream {
 public:
  struct Session {
    std::string transport_address;  // of the store
    uint64_t incarnation = 0;       // of the store process
    uint64_t id = 0;
    int64_t capacity_bytes = 0;  // of the store, shared by its clients
    int64_t room_bytes = 0;      // that the client may have on their way to the store
  };
  struct Options {
    std::string control_address;    // of the store
    std::string transport_address;  // of the client
    uint64_t incarnation = 0;       // of the client
    absl::Duration timeout;
    const ClusterSecurity* security = nullptr;  // null: the store asks nobody who he is
  };
  // Waits for the store's answer. `broken` is called at most once, and only after Open has succeeded.
  // Unavailable or what the store said, without the address.
  static absl::StatusOr<std::unique_ptr<AttachStream>> Open(const Options& options,
                                                            absl::AnyInvocable<void(absl::Status)> broken);
  ~AttachStream();  // ends the session

  const Session& session() const { return session_; }

 private:
  struct Progress;
  struct Reactor;
  AttachStream();
  std::shared_ptr<Progress> progress_;
  std::unique_ptr<Reactor> reactor_;
  Session session_;
};

}  // namespace interlace
