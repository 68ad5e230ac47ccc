#include "worker/model_runner.h"

#include <utility>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace interlace {

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const Options& options, Backend& backend,
                                                                 std::unique_ptr<ModelArch> arch,
                                                                 std::unique_ptr<LayerWindow> window,
                                                                 ActivationChannel* activations, Clock& clock) {
  std::unique_ptr<ModelRunner> runner(
      new ModelRunner(options, backend, std::move(arch), std::move(window), activations, clock));
  ASSIGN_OR_RETURN(runner->hidden_,
                   backend.Allocate(int64_t{options.max_tokens} * options.width * int64_t{sizeof(float)}));
  if (options.shard.last()) {
    ASSIGN_OR_RETURN(runner->logits_,
                     backend.Allocate(int64_t{options.max_sequences} * options.vocab * int64_t{sizeof(float)}));
  }
  return runner;
}

ModelRunner::ModelRunner(const Options& options, Backend& backend, std::unique_ptr<ModelArch> arch,
                         std::unique_ptr<LayerWindow> window, ActivationChannel* activations, Clock& clock)
    : options_(options),
      backend_(backend),
      sampler_(backend, options.vocab),
      arch_(std::move(arch)),
      window_(std::move(window)),
      activations_(activations),
      clock_(clock) {}

StepResult ModelRunner::Execute(const StepPlan& plan) {
  const absl::Time begin = clock_.Now();
  StepResult result{.epoch = plan.epoch, .plan = plan.id, .stage = StageId{options_.shard.stage}};
  result.status = CheckPlan(plan);
  if (!result.status.ok()) return result;

  std::vector<int32_t> tokens, positions;
  for (const PlanSequence& s : plan.sequences) {
    tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
    for (size_t i = 0; i < s.tokens.size(); ++i) positions.push_back(s.start + static_cast<int32_t>(i));
  }
  const StepInput in{tokens, positions};
  const Tensor x{hidden_->data(), DType::kF32, plan.tokens(), options_.width};

  window_->Open(plan);
  window_->Begin(LayerId{options_.shard.layer_begin});  // the first layer's blocks travel while its input does
  result.status = EnterStage(plan, in, x);
  for (int32_t l = options_.shard.layer_begin; l < options_.shard.layer_end && result.status.ok() && x.rows > 0; ++l) {
    const LayerId layer{l};
    window_->Begin(layer);
    arch_->Layer(layer, in, *window_, x);
    window_->End(layer);
  }
  if (result.status.ok()) result.status = LeaveStage(plan, x, &result);
  // Nothing of this step is queued any more: slots that it used may be written by the host.
  if (absl::Status done = backend_.Synchronize(); result.status.ok()) result.status = done;
  if (!result.status.ok()) result.sampled.clear();
  window_->Close(&result);
  result.run_us = absl::ToInt64Microseconds(clock_.Now() - begin);
  return result;
}

absl::Status ModelRunner::CheckPlan(const StepPlan& plan) const {
  const auto refuse = [&plan](const PlanSequence& s, auto&&... why) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan ", Value(plan.id), ", request ", Value(s.request), ": ", why...));
  };
  int32_t samples = 0;
  absl::flat_hash_set<RequestId> seen;
  for (const PlanSequence& s : plan.sequences) {
    samples += s.sample ? 1 : 0;
    if (!seen.insert(s.request).second) return refuse(s, "runs twice in one plan");
    if (s.start < 0) return refuse(s, "start=", s.start, " is negative");
    if (s.tokens.empty()) return refuse(s, "no tokens");
    RETURN_IF_ERROR(CheckResidency(plan.id, s.request, s.residency));
    if (s.sample) RETURN_IF_ERROR(CheckSampling(s));
    for (int32_t token : s.tokens) {
      if (token < 0 || token >= options_.vocab) {
        return refuse(s, "token ", token, " is outside the vocabulary of ", options_.vocab);
      }
    }
  }
  for (const ResidencyChange& change : plan.residency) {
    RETURN_IF_ERROR(CheckResidency(plan.id, change.request, change.residency));
  }
  if (plan.tokens() > options_.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("plan ", Value(plan.id), " has ", plan.tokens(),
                                                   " tokens, this rank takes ", options_.max_tokens,
                                                   "; give ranks and coordinator the same sched.step_tokens"));
  }
  if (samples > options_.max_sequences) {
    return absl::InvalidArgumentError(absl::StrCat("plan ", Value(plan.id), " samples ", samples,
                                                   " tokens, this rank takes ", options_.max_sequences,
                                                   "; give ranks and coordinator the same sched.max_running"));
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::CheckSampling(const PlanSequence& s) const {
  const auto known = [&](int32_t token) { return token >= 0 && token < options_.vocab; };
  const auto refuse = [&s](absl::string_view field) {
    return absl::InvalidArgumentError(absl::StrCat("request ", Value(s.request), ": sampling.", field,
                                                   " does not fit the model or the tokens of the plan"));
  };
  if (s.sample_index < 0 || s.sample_index >= s.start + static_cast<int32_t>(s.tokens.size())) {
    return refuse("sample_index");
  }
  if (s.sampling.logprobs > kMostLogprobs) return refuse("logprobs");
  if (!absl::c_all_of(s.sampling.end_tokens, known)) return refuse("end_tokens");
  for (const LogitBias& b : s.sampling.logit_bias) {
    if (!known(b.token)) return refuse("logit_bias");
  }
  for (const std::vector<int32_t>& word : s.sampling.bad_words) {
    if (word.empty() || !absl::c_all_of(word, known)) return refuse("bad_words");
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::CheckResidency(PlanId plan, RequestId request, const LayerResidencyPlan& residency) const {
  if (residency.layers == options_.layers && residency.keep >= 0 && residency.keep <= residency.layers) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("plan ", Value(plan), ", request ", Value(request), " keeps ",
                                                 residency.keep, " of ", residency.layers, " layers; the model has ",
                                                 options_.layers));
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
    if (index < window_->running()) window_->MarkLost(index);
  }
  return absl::OkStatus();
}

absl::Status ModelRunner::LeaveStage(const StepPlan& plan, const Tensor& x, StepResult* result) {
  if (x.rows == 0) return absl::OkStatus();
  if (!options_.shard.last()) {
    ActivationNote note{plan.epoch, plan.id, {}};
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      if (window_->IsLost(i)) note.lost.push_back(i);
    }
    RETURN_IF_ERROR(backend_.Synchronize());
    return activations_->Send(note, x);
  }
  std::vector<size_t> indices;  // of sequences that sample
  std::vector<int32_t> rows;    // of their last tokens
  int32_t row = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    row += static_cast<int32_t>(plan.sequences[i].tokens.size());
    if (!plan.sequences[i].sample || window_->IsLost(i)) continue;
    indices.push_back(i);
    rows.push_back(row - 1);
  }
  if (indices.empty()) return absl::OkStatus();
  const Tensor logits{logits_->data(), DType::kF32, static_cast<int64_t>(rows.size()), options_.vocab};
  arch_->Logits(x, rows, logits);
  std::vector<absl::Span<const int32_t>> tokens;
  for (size_t i : indices) tokens.push_back(window_->TokensOf(i));
  result->sampled = sampler_.Sample(plan, indices, tokens, logits);
  return absl::OkStatus();
}

}  // namespace interlace
