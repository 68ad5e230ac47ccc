// ModelRunner: executes step plans on one rank; owns the layer loop.
#pragma once

#include <memory>
#include <vector>

#include "common/clock.h"
#include "kernels/backend.h"
#include "model/model_arch.h"
#include "proto/plan/step_plan.h"
#include "worker/activation_channel.h"
#include "worker/layer_window.h"
#include "worker/sampler.h"

namespace interlace {

// Owned by Rank; thread: runner. It decides nothing: what a plan does not say does not happen.
// The trap: plans of one epoch must come in the order of their ids, since stages pair them up.
class ModelRunner {
 public:
  struct Options {
    ShardSpec shard;
    int32_t layers = 0;  // of the model
    int32_t width = 0;
    int32_t vocab = 0;
    int32_t max_tokens = 0;     // rows of the largest step
    int32_t max_sequences = 0;  // that sample in one step
    absl::Duration activation_timeout;
  };
  // `activations` may be null when there is one stage.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(const Options& options, Backend& backend,
                                                             std::unique_ptr<ModelArch> arch,
                                                             std::unique_ptr<LayerWindow> window,
                                                             ActivationChannel* activations, Clock& clock);

  // A status in the result that is not OK means that the rank cannot go on with this epoch.
  StepResult Execute(const StepPlan& plan);
  // What the rank holds between plans: a result of plan 0.
  StepResult Report(Epoch epoch) {
    StepResult result{.epoch = epoch, .stage = StageId{options_.shard.stage}};
    window_->ReportUsage(&result);
    return result;
  }
  // Forgets every request.
  void Reset() { window_->Reset(); }
  const LayerWindow& window() const { return *window_; }

 private:
  ModelRunner(const Options& options, Backend& backend, std::unique_ptr<ModelArch> arch,
              std::unique_ptr<LayerWindow> window, ActivationChannel* activations, Clock& clock);
  absl::Status CheckPlan(const StepPlan& plan) const;
  absl::Status CheckSampling(const PlanSequence& sequence) const;
  absl::Status CheckResidency(PlanId plan, RequestId request, const LayerResidencyPlan& residency) const;
  absl::Status EnterStage(const StepPlan& plan, const StepInput& in, const Tensor& x);
  absl::Status LeaveStage(const StepPlan& plan, const Tensor& x, StepResult* result);

  const Options options_;
  Backend& backend_;
  Sampler sampler_;
  std::unique_ptr<ModelArch> arch_;
  std::unique_ptr<LayerWindow> window_;
  ActivationChannel* activations_;
  Clock& clock_;
  std::unique_ptr<DeviceBuffer> hidden_;  // [max_tokens, width]
  std::unique_ptr<DeviceBuffer> logits_;  // [max_sequences, vocab], last stage
};

}  // namespace interlace
