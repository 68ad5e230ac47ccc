// ModelRunner: executes step plans on one rank; owns the layer loop.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "common/clock.h"
#include "kernels/backend.h"
#include "model/model_arch.h"
#include "proto/plan/step_plan.h"
#include "worker/activation_channel.h"
#include "worker/layer_pager.h"
#include "worker/layer_rows.h"
#include "worker/model_drafter.h"
#include "worker/output_masks.h"
#include "worker/plan_check.h"
#include "worker/row_share.h"
#include "worker/sampler.h"
#include "worker/self_drafter.h"
#include "worker/stage_group.h"

namespace interlace {

// Owned by Rank; thread: runner. It decides nothing: what a plan does not say does not happen. Plans of one epoch come
// in the order of their ids, since stages pair them up.
class ModelRunner {
 public:
  struct Options {
    ShardSpec shard;
    int32_t stage_rank = 0;  // RankInfo's
    int32_t width = 0;
    int32_t kv_width = 0;  // floats of a row's K
    PlanLimits limits;
    absl::Duration activation_timeout;
    OutputMasks::MakeVocabulary vocabulary;  // for constraints; null: requests that have one are refused
    DraftModel* draft_model = nullptr;       // that makes guesses, outlives the runner; null: none does
  };
  // `activations` may be null when there is one stage, `group` when the stage has one rank.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(const Options& options, Backend& backend,
                                                             std::unique_ptr<ModelArch> arch,
                                                             std::unique_ptr<LayerPager> pager,
                                                             ActivationChannel* activations, StageGroup* group,
                                                             Clock& clock);

  // The plan that will be executed after the present one; null while it is not known. It is asked for once the layers
  // are done.
  using NextPlan = absl::FunctionRef<const StepPlan*()>;
  // A status in the result that is not OK means that the rank cannot go on with this epoch. What `next` reads from the
  // host begins to come in before this returns; if another plan follows than `next`, Reset comes between.
  StepResult Execute(const StepPlan& plan, NextPlan next = &NoPlan);
  // What came true since the last result, and what the rank holds: a result of plan 0.
  StepResult Report(Epoch epoch);
  // `wake` runs, on any thread, when Report would have answers of probes or fetches to give. Null: nobody asks any
  // more, and the former one runs no longer when this returns.
  void OnAnswers(absl::AnyInvocable<void()> wake) { pager_->pool().OnAnswers(std::move(wake)); }
  // Forgets every request and every block.
  void Reset();
  const LayerPager& pager() const { return *pager_; }
  const ModelDrafter* model_drafter() const { return model_drafter_.get(); }  // null: there is none

 private:
  ModelRunner(const Options& options, Backend& backend, std::unique_ptr<ModelArch> arch,
              std::unique_ptr<LayerPager> pager, ActivationChannel* activations, StageGroup* group, Clock& clock);
  // Of what the ranks of the stage have told each other so far in the step.
  absl::Status GroupStatus() const { return group_ == nullptr ? absl::OkStatus() : group_->status(); }
  static const StepPlan* NoPlan() { return nullptr; }
  // On the first of several stages: learns what the last one sampled, as far as the plan needs it or it has come.
  absl::Status TakeSamples(const StepPlan& plan);
  Refusals RefusedOf(const StepPlan& plan) const;
  // Sequences that are to make their own guesses make them.
  void DraftOwn(const StepPlan& plan, StepResult* result);
  // The rows of the step, into tokens_, positions_ and adapters_. Those of lost sequences are harmless.
  StepInput InputOf(const StepPlan& plan);
  // The rows of the step that this rank computes: all, where nobody divides them.
  ShardRange OwnRows(const StepPlan& plan) const;
  bool Divides() const { return share_ != nullptr && share_->divided(); }
  // x has the rows of `in`, which are this rank's own.
  absl::Status EnterStage(const StepPlan& plan, const StepInput& in, const Tensor& x);
  void RunLayer(LayerId layer, const StepInput& in, const Tensor& x, LayerRows* rows);
  // Here and below, x has a place for every row of the step.
  absl::Status LeaveStage(const StepPlan& plan, const Tensor& x, StepResult* result);
  // All ranks of the stage know whom any of them lost, and on the last stage have the rows that results are made of.
  absl::Status Agree(const StepPlan& plan, const Tensor& x);
  absl::Status HandOn(const StepPlan& plan, const Tensor& x);
  // Scores of prompts, some rows' logits at a time.
  void Score(const StepPlan& plan, const Tensor& x, StepResult* result);
  // Rows that are pooled, added up in the order of their positions, so that chunks change nothing. Works in x.
  absl::Status Pool(const StepPlan& plan, const Tensor& x, StepResult* result);
  // Behind a layer: what x holds of prompts whose keys are taken there.
  absl::Status TakeKeys(const StepPlan& plan, LayerId layer, const Tensor& x, StepResult* result);
  // Rows whose tokens are constrained: their masks begin to be made.
  void BeginMasks(const StepPlan& plan);
  struct SampleRows {
    std::vector<SampleAsk> asks;
    std::vector<int32_t> rows;      // of the step, one for each ask
    std::vector<size_t> sequences;  // of the plan, of each ask
  };
  SampleRows RowsToSample(const StepPlan& plan);
  void Sample(const StepPlan& plan, const Tensor& x, StepResult* result);
  // They are there; sequences that cannot have theirs are lost.
  void TakeMasks(const StepPlan& plan);
  // Of sequences that guessed themselves, samples behind a wrong guess are dropped: who gets the result cannot tell.
  void NoteSamples(const StepPlan& plan, const SampleRows& rows, std::vector<SampledToken>* sampled);
  // Of a sequence that has no token to go on with.
  void Unmask(const PlanSequence& sequence, size_t index, absl::string_view why);

  const Options options_;
  Backend& backend_;
  Sampler sampler_;
  std::unique_ptr<ModelArch> arch_;
  std::unique_ptr<LayerPager> pager_;
  SelfDrafter drafter_;
  std::unique_ptr<ModelDrafter> model_drafter_;  // null: there is no draft model
  ActivationChannel* activations_;
  StageGroup* group_;
  std::unique_ptr<RowShare> share_;  // null: no ranks divide the rows of steps
  Clock& clock_;
  std::unique_ptr<OutputMasks> masks_;    // last stage
  std::vector<LostSequence> unmasked_;    // by the present step
  std::unique_ptr<DeviceBuffer> hidden_;  // [max_tokens, width]
  std::unique_ptr<DeviceBuffer> logits_;  // [max_samples, vocab], last stage: of rows that sample, or of a slice of
                                          // those that are scored
  std::vector<int32_t> tokens_, positions_;
  std::vector<const LoraAdapter*> adapters_;  // of the rows; empty: none of them has one
  absl::Time ended_ = absl::InfinitePast();   // the step before, of this epoch
  std::deque<PlanId> unreturned_;  // first of several stages: plans whose samples have not come back, in order
};

}  // namespace interlace
