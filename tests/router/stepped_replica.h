// A replica that a test turns by hand: a Scheduler over scripted ranks, in this thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/admission.h"
#include "coordinator/engine.h"
#include "coordinator/scheduler.h"
#include "tests/coordinator/fake_replica.h"

namespace interlace {

// What ReplicaLoop is to a Router, without its thread.
class SteppedReplica final : public Engine {
 public:
  SteppedReplica(const Scheduler::Options& options, const Policy& policy, Clock& clock, Metrics& metrics,
                 Entropy& entropy)
      : options_(options), ranks_(entropy), scheduler_(options, policy, clock, metrics, ranks_) {}

  void Form(const std::vector<RankInfo>& ranks) {
    ranks_.Start(Epoch{++epoch_}, ranks);
    scheduler_.OnFormed(Epoch{epoch_}, ranks);
    names_ = std::make_shared<const ChainSeed>(scheduler_.shape()->seed);
  }
  void Lose(const absl::Status& why) {
    ranks_.Stop();
    names_.reset();
    scheduler_.OnLost(why);
    scheduler_.RunOnce();
  }
  // One rank executes a plan or answers, or nothing.
  void Turn() {
    if (ranks_.formed()) {
      if (std::optional<StepResult> result = ranks_.Turn()) scheduler_.OnResult(*std::move(result));
    }
    scheduler_.RunOnce();
    scheduler_.CheckInvariants();
  }
  bool formed() const { return ranks_.formed(); }
  bool busy() const { return ranks_.formed() && ranks_.busy(); }
  Scheduler& scheduler() { return scheduler_; }
  FakeReplica& ranks() { return ranks_; }

  absl::Status refuse;  // every request, if it is not OK

  absl::Status Submit(Request request) override {
    if (!refuse.ok()) return refuse;
    if (scheduler_.shape() == nullptr) return absl::UnavailableError("no replica is ready");
    const AdmissionLimits limits{.context = options_.context,
                                 .placement = {options_.fixed_keep, options_.chunk_tokens}};
    if (const absl::Status fit = interlace::Admit(*scheduler_.shape(), limits, {}, &request); !fit.ok()) return fit;
    scheduler_.Admit(std::move(request));
    return absl::OkStatus();
  }
  void Cancel(RequestId id) override { scheduler_.Cancel(id, absl::CancelledError("the client is gone")); }
  void Stop(RequestId id) override { scheduler_.Stop(id); }
  void HandOver(RequestId id, absl::Status why) override { scheduler_.HandOver(id, why); }
  absl::StatusOr<Explanation> Explain(absl::string_view name) override { return scheduler_.Explain(name); }
  absl::StatusOr<ReplicaSnapshot> Snapshot() override { return scheduler_.Snapshot(); }
  EngineLoad Load() override {
    EngineLoad load = scheduler_.Load();
    load.ranks = 1;
    load.names = names_;
    return load;
  }

 private:
  const Scheduler::Options options_;
  FakeReplica ranks_;
  Scheduler scheduler_;
  std::shared_ptr<const ChainSeed> names_;
  uint64_t epoch_ = 0;
};

}  // namespace interlace
