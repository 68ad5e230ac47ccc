#include "worker/model_runner.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {
namespace {

bool Samples(const StepPlan& plan) {
  return absl::c_any_of(plan.sequences, [](const PlanSequence& s) { return s.sample; });
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const Options& options, Backend& backend,
                                                                 std::unique_ptr<ModelArch> arch,
                                                                 std::unique_ptr<LayerPager> pager,
                                                                 ActivationChannel* activations, StageGroup* group,
                                                                 Clock& clock) {
  std::unique_ptr<ModelRunner> runner(
      new ModelRunner(options, backend, std::move(arch), std::move(pager), activations, group, clock));
  const PlanLimits& limits = options.limits;
  ASSIGN_OR_RETURN(runner->hidden_,
                   backend.Allocate(int64_t{limits.max_tokens} * options.width * int64_t{sizeof(float)}));
  if (options.shard.last()) {
    ASSIGN_OR_RETURN(runner->logits_,
                     backend.Allocate(int64_t{limits.max_samples} * limits.vocab * int64_t{sizeof(float)}));
  }
  return runner;
}

ModelRunner::ModelRunner(const Options& options, Backend& backend, std::unique_ptr<ModelArch> arch,
                         std::unique_ptr<LayerPager> pager, ActivationChannel* activations, StageGroup* group,
                         Clock& clock)
    : options_(options),
      backend_(backend),
      sampler_(backend, options.limits.vocab),
      arch_(std::move(arch)),
      pager_(std::move(pager)),
      activations_(activations),
      group_(group),
      clock_(clock) {}

StepResult ModelRunner::Execute(const StepPlan& plan, NextPlan next) {
  const absl::Time begin = clock_.Now();
  StepResult result{.epoch = plan.epoch,
                    .plan = plan.id,
                    .stage = StageId{options_.shard.stage},
                    .tensor_rank = options_.shard.tensor_rank};
  result.status = CheckPlan(plan, options_.limits);
  if (result.status.ok()) result.status = TakeSamples(plan);
  if (!result.status.ok()) return result;

  pager_->Open(plan, RefusedOf(plan));
  if (group_ != nullptr) group_->Begin(plan.epoch, plan.id, *pager_);
  pager_->Begin(LayerId{options_.shard.layer_begin});  // the first layer's blocks travel while its input does
  const StepInput in = InputOf(plan);
  const Tensor x{hidden_->data(), DType::kF32, plan.tokens(), options_.width};
  result.status = EnterStage(plan, in, x);
  for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end && result.status.ok() && x.rows > 0; ++l) {
    const LayerId layer{l};
    pager_->Begin(layer);
    arch_->Layer(layer, in, *pager_, x);
    pager_->End(layer);
    result.status = GroupStatus();
  }
  if (result.status.ok()) pager_->EndLayers(next());  // from here on the link works for the next plan
  if (result.status.ok()) result.status = LeaveStage(plan, x, &result);
  // Nothing of this step is queued any more when its result leaves.
  if (absl::Status done = backend_.Synchronize(); result.status.ok()) result.status = done;
  if (!result.status.ok()) result.sampled.clear();
  pager_->Close(&result);
  if (ended_ != absl::InfinitePast()) result.gap_us = absl::ToInt64Microseconds(begin - ended_);
  ended_ = clock_.Now();
  result.run_us = absl::ToInt64Microseconds(ended_ - begin);
  return result;
}

void ModelRunner::Reset() {
  pager_->Reset();
  unreturned_.clear();
  ended_ = absl::InfinitePast();
}

// Samples come in the order of plans. Those that no plan needs are taken too, once they are there: a stream may go on
// much later.
absl::Status ModelRunner::TakeSamples(const StepPlan& plan) {
  if (!options_.shard.first() || options_.shard.last()) return absl::OkStatus();
  const PlanId needed = pager_->AwaitedSamples(plan);
  while (!unreturned_.empty()) {
    const PlanId next = unreturned_.front();
    if (next > needed && !activations_->SamplesArrived(plan.epoch, next)) break;
    ASSIGN_OR_RETURN(const std::vector<ReturnedSample> samples,
                     activations_->ReceiveSamples(plan.epoch, next, options_.activation_timeout));
    for (const ReturnedSample& s : samples) {
      if (s.token >= options_.limits.vocab) {
        return absl::InvalidArgumentError(absl::StrCat("the last stage sampled token ", s.token,
                                                       " where the vocabulary has ", options_.limits.vocab));
      }
      pager_->NoteReturned(next, s.request, s.attempt, s.token);
    }
    unreturned_.pop_front();
  }
  if (Samples(plan)) unreturned_.push_back(plan.id);
  return absl::OkStatus();
}

StepResult ModelRunner::Report(Epoch epoch) {
  StepResult result{.epoch = epoch, .stage = StageId{options_.shard.stage}, .tensor_rank = options_.shard.tensor_rank};
  pager_->Report(&result);
  return result;
}

Refusals ModelRunner::RefusedOf(const StepPlan& plan) const {
  Refusals refused;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (std::string why = WhyRefused(plan.sequences[i], options_.limits); !why.empty()) refused[i] = std::move(why);
  }
  return refused;
}

StepInput ModelRunner::InputOf(const StepPlan& plan) {
  tokens_.clear();
  positions_.clear();
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const size_t rows = plan.sequences[i].tokens.size();
    if (pager_->IsLost(i)) {
      tokens_.resize(tokens_.size() + rows);
      positions_.resize(positions_.size() + rows);
      continue;
    }
    const int32_t start = plan.sequences[i].start;
    const absl::Span<const int32_t> tokens = pager_->sequence(i).tokens().subspan(start);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    for (size_t r = 0; r < rows; ++r) positions_.push_back(start + static_cast<int32_t>(r));
  }
  return {tokens_, positions_};
}

absl::Status ModelRunner::EnterStage(const StepPlan& plan, const StepInput& in, const Tensor& x) {
  if (x.rows == 0) return absl::OkStatus();
  if (options_.shard.first()) {
    arch_->Embed(in, x);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const ActivationNote note,
                   activations_->Receive(plan.epoch, plan.id, x, options_.activation_timeout));
  for (size_t index : note.lost) {
    if (index < pager_->running()) pager_->MarkLost(index);
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::LeaveStage(const StepPlan& plan, const Tensor& x, StepResult* result) {
  if (x.rows == 0) return absl::OkStatus();
  if (group_ != nullptr) RETURN_IF_ERROR(group_->Agree());  // the last layer may have lost somebody here alone
  if (options_.shard.last()) {
    Sample(plan, x, result);
    RETURN_IF_ERROR(GroupStatus());
    if (options_.shard.first() || !Samples(plan)) return absl::OkStatus();
    return activations_->SendSamples(plan.epoch, plan.id, result->sampled);
  }
  ActivationNote note{plan.epoch, plan.id, {}};
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    if (pager_->IsLost(i)) note.lost.push_back(i);
  }
  RETURN_IF_ERROR(backend_.Synchronize());
  return activations_->Send(note, x);
}

void ModelRunner::Sample(const StepPlan& plan, const Tensor& x, StepResult* result) {
  std::vector<SampleAsk> asks;
  std::vector<int32_t> rows;      // of x, one for each ask
  std::vector<size_t> sequences;  // of each ask
  int32_t row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlanSequence& s = plan.sequences[i];
    row += static_cast<int32_t>(s.tokens.size());
    if (!s.sample || pager_->IsLost(i)) continue;
    const SequenceKv& kv = pager_->sequence(i);
    for (int32_t d = 0; d <= s.drafts; ++d) {  // the logits after the last known token, then after each draft
      const int32_t behind = s.drafts - d;
      rows.push_back(row - 1 - behind);
      sequences.push_back(i);
      asks.push_back({s.request, s.attempt, s.sample_index + d, &kv.sampling,
                      kv.tokens().first(kv.tokens().size() - static_cast<size_t>(behind))});
    }
  }
  if (asks.empty()) return;
  const Tensor logits{logits_->data(), DType::kF32, static_cast<int64_t>(rows.size()), options_.limits.vocab};
  arch_->Logits(x, rows, logits);
  result->sampled = sampler_.Sample(asks, logits);
  for (size_t i = 0; i < sequences.size(); ++i) pager_->NoteSample(sequences[i], result->sampled[i].token);
}

}  // namespace interlace
