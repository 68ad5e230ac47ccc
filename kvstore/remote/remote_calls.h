// RemoteCalls: what a remote tier has asked the store and not been told yet.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/remote/kv_wire.h"

namespace interlace {

// One call of the tier, in one or more messages that are answered one by one. Of puts and probes, an answer that is OK
// holds no bytes.
struct RemoteCall {
  using Done = absl::AnyInvocable<void(std::vector<absl::StatusOr<SharedBytes>>)>;
  KvOp op;
  std::vector<absl::StatusOr<SharedBytes>> answers;
  size_t unanswered;
  Done done;

  RemoteCall(KvOp op, size_t blocks, Done done)
      : op(op), answers(blocks, absl::UnavailableError("no answer")), unanswered(blocks), done(std::move(done)) {}
  void Finish() { done(std::move(answers)); }
};
using RemoteCallPtr = std::shared_ptr<RemoteCall>;

// A plain structure. Owned by a RemoteStore, under its lock. A call that it gives back is finished: whoever gets it
// runs Finish, without the lock, once.
class RemoteCalls {
 public:
  // One message: blocks [first, first + count) of the call. `put_bytes` are on their way until it is answered.
  // Answers the id of the message.
  uint64_t Add(RemoteCallPtr call, size_t first, size_t count, int64_t put_bytes, absl::Time deadline);
  // A message without blocks, whose answer nobody waits for: kDrop, kRoom.
  uint64_t NextId() { return ++last_id_; }

  // Null: the call has more to come, or the message is not known any more. Internal: the reply does not fit the
  // message.
  absl::StatusOr<RemoteCallPtr> TakeReply(const KvReply& reply, std::string body);
  // The message will not be answered. Null: the call has more to come.
  RemoteCallPtr Fail(uint64_t id, const absl::Status& why);
  // No message will be answered.
  std::vector<RemoteCallPtr> FailAll(const absl::Status& why);

  absl::Time NextDeadline() const;  // InfiniteFuture: nothing is asked
  int64_t put_bytes() const { return put_bytes_; }
  size_t size() const { return asked_.size(); }

 private:
  struct Asked {
    RemoteCallPtr call;
    size_t first;
    size_t count;
    size_t answered = 0;  // answers come in order
    int64_t put_bytes;
    absl::Time deadline;
  };
  absl::flat_hash_map<uint64_t, Asked> asked_;  // by message
  uint64_t last_id_ = 0;
  int64_t put_bytes_ = 0;
};

}  // namespace interlace
