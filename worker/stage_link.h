// StageLink: messages about plans, from one pipeline stage to another.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/ids.h"
#include "common/transport.h"

namespace interlace {

// One end of a link. Owned by ActivationChannel; Send and Receive by the runner, Connect by whoever starts an epoch,
// the rest by any thread. A message names the stage that sent it and carries a checksum over everything: what comes
// from elsewhere, or over another connection than the one that opened the epoch, is dropped; what is damaged fails the
// step. The other end's loss ends a wait at once, and fails the next Send. Messages of an older epoch or plan are
// dropped, so both ends must agree on the epoch (Start) before a plan runs.
class StageLink {
 public:
  struct Options {
    Channel channel{};
    StageId self{};    // the stage of this rank
    StageId sender{};  // whom it hears
    // For errors: what travels, whence and whither, as in "activations", "previous", "next".
    std::string what, from, to;
  };
  StageLink(Transport& transport, const Options& options);

  // Connects to the receiving stage (empty address: this rank sends nothing) for an epoch and closes the former
  // connection.
  absl::Status Connect(absl::string_view address, Epoch epoch);
  // Unavailable if the receiving stage is gone or an earlier message did not leave.
  absl::Status Send(Epoch epoch, PlanId plan, std::string body);
  // Waits for the message of exactly this plan and forgets those of older ones. Unavailable when interrupted, when the
  // sending stage is gone, or after `timeout`; DataLoss if the message is damaged.
  absl::StatusOr<std::string> Receive(Epoch epoch, PlanId plan, absl::Duration timeout);
  // Whether Receive would find a message without waiting.
  bool Arrived(Epoch epoch, PlanId plan) const;
  // Makes Receive return Unavailable for every epoch below `epoch`, for good: a later epoch has begun.
  void Interrupt(Epoch epoch);
  // Makes Receive return Unavailable, now and until Resume.
  void Interrupt();
  // A session begins: epochs count anew, what was received is forgotten.
  void Resume();

 private:
  // Both are shared with the transport's callbacks, which may outlive the link.
  struct Inbox;
  struct Outbox {
    const std::string what, to;
    absl::Mutex mutex;
    PeerId peer{};           // protected by mutex
    bool connected = false;  // protected by mutex
    absl::Status failure;    // protected by mutex; why a message to `peer` did not leave
    void Fail(PeerId lost, const absl::Status& why);
  };

  Transport& transport_;
  const Options options_;
  const std::shared_ptr<Inbox> inbox_;
  const std::shared_ptr<Outbox> outbox_;
};

}  // namespace interlace
