#include "cli/in_process_replica.h"

#include <utility>

#include "common/entropy.h"
#include "common/status_macros.h"
#include "model/model_spec.h"

namespace interlace {

InProcessReplica::InProcessReplica() : metrics_("in-process") {}

absl::StatusOr<std::unique_ptr<InProcessReplica>> InProcessReplica::Create(
    const Config& config, Clock& clock, FaultPoints& faults, Transport* transport,
    absl::FunctionRef<void(int64_t, int64_t)> progress, MakeBackend make_backend) {
  std::unique_ptr<InProcessReplica> replica(new InProcessReplica);
  ASSIGN_OR_RETURN(ModelText text, LoadModelText(config.model.path));
  replica->text_ = std::make_unique<ModelText>(std::move(text));
  const std::unique_ptr<Entropy> entropy = MakeOsEntropy();
  ASSIGN_OR_RETURN(replica->rank_,
                   Rank::Create(config, entropy->Next(), clock, faults, transport, progress, make_backend));
  RETURN_IF_ERROR(CheckLayers(config, replica->rank_->spec().layers));
  ASSIGN_OR_RETURN(const SchedulingPolicy policy, FindPolicy(config.sched.policy));
  replica->loop_ = std::make_unique<ReplicaLoop>(LoopOptions(config, replica->rank_->spec().context), policy,
                                                 clock, replica->metrics_, *replica);
  InProcessReplica* self = replica.get();
  self->runner_ = Thread("runner", [self] {
    while (std::optional<StepPlan> plan = self->plans_.Pop()) {
      self->loop_->OnResult(self->rank_->runner().Execute(*plan));
    }
  });
  self->loop_->OnFormed(Epoch{1}, {self->rank_->info()});
  while (self->loop_->Load().ranks_ready == 0) {
    // The loop takes the event above before any other; Explain answers once it has.
    (void)self->loop_->Explain("");
  }
  return replica;
}

InProcessReplica::~InProcessReplica() {
  plans_.Close();
  runner_.Join();
  loop_.reset();
}

void InProcessReplica::Send(const StepPlan& plan) { plans_.Push(plan); }

void InProcessReplica::Reset(const absl::Status&) {}  // the loop then ends every request after cluster.reform_timeout

}  // namespace interlace
