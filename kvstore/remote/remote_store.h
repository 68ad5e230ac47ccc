// RemoteStore: a session with a kvstore that comes and goes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "common/clock.h"
#include "common/gate.h"
#include "common/thread.h"
#include "common/transport.h"
#include "kvstore/remote/attach_stream.h"
#include "kvstore/remote/remote_calls.h"
#include "kvstore/tier/tier.h"

namespace interlace {

// Shared with the transport's handlers, which may outlive the tier; after Stop they find nothing to do. Any thread; no
// call waits for the store. A thread of its own attaches, attaches again a second after the store was lost, gives up
// messages that are not answered in time (the store counts as away then), and asks for room where the store had none.
// Lock: mutex_ alone, never held across a call into the transport, gRPC or a `done`.
class RemoteStore : public std::enable_shared_from_this<RemoteStore> {
 public:
  struct Options {
    std::string address;  // of the store's control service
    absl::Duration answer_within;
    std::shared_ptr<const ClusterSecurity> security;  // null: the store asks nobody who he is
  };
  RemoteStore(const Options& options, Transport& transport, Clock& clock);

  void Start();  // tries to attach once before it returns
  void Stop();   // every call has been answered when it returns

  // One message of a call, being cut.
  struct Outgoing {
    KvRequest request;
    std::vector<SharedBytes> parts;
  };
  // Sends a call, or fails it. `cut(first, room, message)` fills in the message that starts with block `first` and
  // answers how many blocks it took; of puts, no more than `room` bytes may be on their way. A cut of 0 blocks: there
  // is no room, and this block and the rest get ResourceExhausted.
  using Cut = absl::FunctionRef<size_t(size_t first, int64_t room, Outgoing* message)>;
  void Submit(RemoteCallPtr call, Cut cut);
  void Drop(std::vector<BlockKey> keys);

  // Whether the store is attached and has room.
  bool Wants() const;
  TierUsage Usage() const;

 private:
  struct Attachment {
    std::unique_ptr<AttachStream> stream;
    PeerId peer{};
    uint64_t session = 0;
  };
  struct Message {
    uint64_t id;
    std::string header;
    std::vector<SharedBytes> parts;
  };
  struct Route {
    PeerId peer;
    uint64_t session;
  };

  absl::Status Attach();
  void Detach(uint64_t session, const absl::Status& why);
  uint64_t SessionOf(PeerId peer) const;  // 0: none that is in force
  std::optional<Route> RouteLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendAll(const Route& route, std::vector<Message> messages);
  void OnReply(interlace::Message message);
  void FailMessage(uint64_t id, const absl::Status& why);

  void RunKeeper();  // thread: kv-attach
  void GiveBackEnded();
  void AttachIfDue();
  void CheckAnswers();
  void AskForRoom();
  bool Woken() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  Transport& transport_;
  Clock& clock_;
  const uint64_t incarnation_;
  Gate calls_;  // those that are not answered yet

  mutable absl::Mutex mutex_;
  std::optional<Attachment> attachment_ ABSL_GUARDED_BY(mutex_);
  std::vector<Attachment> ended_ ABSL_GUARDED_BY(mutex_);  // given back by the keeper alone
  RemoteCalls asked_ ABSL_GUARDED_BY(mutex_);
  absl::Status away_ ABSL_GUARDED_BY(mutex_) = absl::UnavailableError("not attached yet");
  absl::Time last_attempt_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  TierUsage usage_ ABSL_GUARDED_BY(mutex_);
  int64_t room_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Thread keeper_;
};

}  // namespace interlace
