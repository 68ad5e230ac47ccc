// ActivationChannel: hidden states from one pipeline stage to the next.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/ids.h"
#include "common/transport.h"
#include "kernels/tensor.h"

namespace interlace {

// What a stage hands on besides the rows: which sequences of the plan it lost.
struct ActivationNote {
  Epoch epoch{};
  PlanId plan{};
  std::vector<size_t> lost;  // indices into the plan's sequences, ascending
};

// Owned by the rank; Send and Receive by the runner, Connect by whoever starts an epoch, the rest by any thread.
// A message names the stage that sent it and carries a checksum over everything: what comes from elsewhere is dropped,
// what is damaged fails the step. Either neighbour's end of the connection ends the wait for it: the receiving stage
// hears of it at once, the sending one at its next Send.
// Messages of an older epoch or plan are dropped, so both ends must agree on the epoch (Start) before a plan runs.
class ActivationChannel {
 public:
  // `stage` is this rank's own.
  ActivationChannel(Transport& transport, StageId stage);

  // Connects to the next stage (empty address: there is none) for an epoch and closes the former connection.
  absl::Status Connect(absl::string_view next_stage_address, Epoch epoch = {});
  // Hands x over; x may be reused at once. Unavailable if the next stage is gone or an earlier Send did not leave.
  absl::Status Send(const ActivationNote& note, const Tensor& x);
  // Waits for the rows of exactly this plan and copies them into x. Unavailable when interrupted, when the previous
  // stage is gone, or after `timeout`; InvalidArgument if the message does not fit x; DataLoss if it is damaged.
  absl::StatusOr<ActivationNote> Receive(Epoch epoch, PlanId plan, const Tensor& x, absl::Duration timeout);
  // Makes Receive return Unavailable for every epoch below `epoch`, for good: a later epoch has begun.
  void Interrupt(Epoch epoch);
  // Makes Receive return Unavailable, now and until Resume.
  void Interrupt();
  // A session begins: epochs count anew, what was received is forgotten.
  void Resume();

 private:
  struct Inbox;
  // Shared with the transport's callbacks, which may outlive the channel.
  struct Link {
    absl::Mutex mutex;
    PeerId next{};           // protected by mutex
    bool connected = false;  // protected by mutex
    absl::Status failure;    // protected by mutex; why a message to `next` did not leave
  };
  static void Fail(Link& link, PeerId peer, const absl::Status& why);

  Transport& transport_;
  const StageId stage_;
  const std::shared_ptr<Inbox> inbox_;
  const std::shared_ptr<Link> link_;
};

}  // namespace interlace
