// ActivationChannel: hidden states from one pipeline stage to the next.
#pragma once

#include <memory>
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

// Owned by main; Send and Receive by the runner, the rest by the session thread. The trap: messages of an older epoch
// or plan are dropped, so both ends must agree on the epoch (Start) before a plan runs.
class ActivationChannel {
 public:
  explicit ActivationChannel(Transport& transport);

  // Connects to the next stage (empty address: there is none) and closes the former connection.
  absl::Status Connect(absl::string_view next_stage_address);
  // Hands x over; x may be reused at once. Unavailable if the next stage is gone.
  absl::Status Send(const ActivationNote& note, const Tensor& x);
  // Waits for the rows of exactly this plan and copies them into x.
  // Unavailable when interrupted or after `timeout`; InvalidArgument if the message does not fit x.
  absl::StatusOr<ActivationNote> Receive(Epoch epoch, PlanId plan, const Tensor& x, absl::Duration timeout);
  // Makes Receive return Unavailable, now and until Resume.
  void Interrupt();
  void Resume();

 private:
  // Forgets messages of this plan and of older ones.
  void DropStale(Epoch epoch, PlanId plan);  // requires the inbox's mutex

  Transport& transport_;
  // Shared with the transport's handler, which may outlive the channel.
  struct Inbox {
    absl::Mutex mutex;
    std::vector<Message> messages;  // protected by mutex
    bool interrupted = false;       // protected by mutex
  };
  std::shared_ptr<Inbox> inbox_;
  absl::Mutex mutex_;
  PeerId next_{};           // protected by mutex_
  bool connected_ = false;  // protected by mutex_
};

}  // namespace interlace
