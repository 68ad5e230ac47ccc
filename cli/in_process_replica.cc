#include "cli/in_process_replica.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "common/status_macros.h"
#include "coordinator/rank_fit.h"
#include "coordinator/skip_index/skip_settings.h"
#include "coordinator/speculation.h"
#include "model/model_spec.h"

namespace interlace {
namespace {

constexpr Epoch kOnlyEpoch{1};  // a process is formed once

absl::Status CheckAlone(const Config& config) {
  if (RanksOfReplica(config) == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("cluster.stages=", config.cluster.stages,
                                                 ", cluster.tensor_ranks=", config.cluster.tensor_ranks,
                                                 ", cluster.sequence_ranks=", config.cluster.sequence_ranks,
                                                 ": this is one process, which is one rank; interlace serve starts "
                                                 "several"));
}

}  // namespace

InProcessReplica::InProcessReplica(Clock& clock) : metrics_("in-process"), clock_(clock) {}

absl::StatusOr<std::unique_ptr<InProcessReplica>> InProcessReplica::Create(
    const Config& config, Clock& clock, FaultPoints& faults, Transport* transport,
    absl::FunctionRef<void(int64_t, int64_t)> progress, MakeBackend make_backend) {
  RETURN_IF_ERROR(CheckAlone(config));
  std::unique_ptr<InProcessReplica> replica(new InProcessReplica(clock));
  ASSIGN_OR_RETURN(ModelText text, LoadModelText(config.model.path));
  replica->text_ = std::make_unique<ModelText>(std::move(text));
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  ASSIGN_OR_RETURN(replica->rank_,
                   Rank::Create(config, entropy->Next(), clock, faults, transport, progress, make_backend));
  RETURN_IF_ERROR(CheckLayers(config, replica->rank_->spec().layers));
  if (ParseSpeculate(config.sched.speculate) == Speculate::kModel) {
    RETURN_IF_ERROR(CheckDraftModel(replica->rank_->info()));
  }
  ASSIGN_OR_RETURN(const Policy* const policy, FindPolicy(config.sched.policy));
  ASSIGN_OR_RETURN(const int32_t context, ServedContext(config, replica->rank_->spec().context));
  ASSIGN_OR_RETURN(ReplicaLoop::Options loop_options, LoopOptions(config, context));
  const ModelSpec& spec = replica->rank_->spec();
  replica->skip_advisor_ = MakeSkipAdvisor(config, spec.digest, spec.layers, entropy->Fork("skip-advisor"));
  loop_options.scheduler.skip_advisor = replica->skip_advisor_.get();
  replica->loop_ = std::make_unique<ReplicaLoop>(loop_options, *policy, clock, replica->metrics_, *replica);
  InProcessReplica* self = replica.get();
  self->rank_->runner().OnAnswers([self] { self->orders_.TryPush(ReportAsked{}); });
  self->runner_ = Thread("runner", [self] { self->RunOrders(); });
  self->loop_->OnFormed(kOnlyEpoch, {self->rank_->info()});
  while (self->loop_->Load().ranks_ready == 0) {
    // The loop takes the event above before any other; Explain answers once it has.
    (void)self->loop_->Explain("");
  }
  return replica;
}

InProcessReplica::~InProcessReplica() {
  if (rank_ != nullptr) rank_->runner().OnAnswers(nullptr);
  orders_.Close();
  if (runner_.joinable()) runner_.Join();
  loop_.reset();
}

// An order that finds the queue full of plans is not missed: their results say the same.
void InProcessReplica::RunOrders() {
  ModelRunner& runner = rank_->runner();
  absl::Time free = clock_.Now();
  while (std::optional<Order> order = orders_.Pop()) {
    const SentPlan* sent = std::get_if<SentPlan>(&*order);
    if (sent == nullptr) {
      loop_->OnResult(runner.Report(kOnlyEpoch));
      continue;
    }
    StepResult result = runner.Execute(sent->plan, [this] {
      const Order* const following = orders_.Front();
      const SentPlan* const next = following == nullptr ? nullptr : std::get_if<SentPlan>(following);
      return next == nullptr ? nullptr : &next->plan;
    });
    const absl::Time began = std::max(free, sent->sent);
    free = clock_.Now();
    if (watch_) watch_(sent->plan, result, free - began);
    loop_->OnResult(std::move(result));
  }
}

void InProcessReplica::Send(const StepPlan& plan) { orders_.Push(SentPlan{plan, clock_.Now()}); }

void InProcessReplica::Reset(const absl::Status&) {}  // the loop then ends every request after cluster.reform_timeout

}  // namespace interlace
