// ActivationChannel: what pipeline stages tell each other: hidden states to the next stage, sampled tokens back to the
// first.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/ids.h"
#include "common/transport.h"
#include "kernels/tensor.h"
#include "proto/plan/step_plan.h"
#include "worker/stage_link.h"

namespace interlace {

// What a stage hands on besides the rows: which sequences of the plan it lost.
struct ActivationNote {
  Epoch epoch{};
  PlanId plan{};
  std::vector<size_t> lost;  // indices into the plan's sequences, ascending
};

// The token that one attempt of a request sampled last.
struct ReturnedSample {
  RequestId request{};
  uint32_t attempt = 0;
  int32_t token = -1;
  friend bool operator==(const ReturnedSample&, const ReturnedSample&) = default;
};

// Owned by the rank; Connect by whoever starts an epoch, Interrupt and Resume by any thread, the rest by the runner.
// Errors are those of StageLink.
class ActivationChannel {
 public:
  // `stage` is this rank's own, of `stages`.
  ActivationChannel(Transport& transport, StageId stage, int32_t stages);

  // Where the next stage is, and, for the last one, the first. Empty addresses: there is none.
  absl::Status Connect(absl::string_view next_stage_address, absl::string_view first_stage_address, Epoch epoch);

  // Hands x over; x may be reused at once.
  absl::Status Send(const ActivationNote& note, const Tensor& x);
  // Waits for the rows of exactly this plan and copies them into x. InvalidArgument if the message does not fit x.
  absl::StatusOr<ActivationNote> Receive(Epoch epoch, PlanId plan, const Tensor& x, absl::Duration timeout);

  // From the last stage to the first: what a plan sampled. Sent for each plan that was to sample, if only to say that
  // every sequence of it was lost.
  absl::Status SendSamples(Epoch epoch, PlanId plan, absl::Span<const SampledToken> sampled);
  // Waits for what exactly this plan sampled. InvalidArgument if the message makes no sense.
  absl::StatusOr<std::vector<ReturnedSample>> ReceiveSamples(Epoch epoch, PlanId plan, absl::Duration timeout);
  // Whether ReceiveSamples would not have to wait.
  bool SamplesArrived(Epoch epoch, PlanId plan) const { return back_.Arrived(epoch, plan); }

  // As StageLink's, for both directions.
  void Interrupt(Epoch epoch);
  void Interrupt();
  void Resume();

 private:
  StageLink forth_;
  StageLink back_;
};

}  // namespace interlace
