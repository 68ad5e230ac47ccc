// InProcessReplica: scheduler and rank in one process, no network: what `interlace run` and benchmarks use.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <variant>

#include "absl/status/statusor.h"
#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/fault.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/replica_loop.h"
#include "coordinator/skip_index/skip_advisor.h"
#include "text/model_text.h"
#include "text/tokenizer.h"
#include "worker/rank.h"

namespace interlace {

// The scheduler, plans, layer loop and tiers of a cluster with one stage. Owned by main; the Engine from any thread.
// The trap: a transport is needed only for the remote tier, and outlives this.
class InProcessReplica final : public PlanChannel {
 public:
  static absl::StatusOr<std::unique_ptr<InProcessReplica>> Create(const Config& config, Clock& clock,
                                                                  FaultPoints& faults, Transport* transport,
                                                                  absl::FunctionRef<void(int64_t, int64_t)> progress,
                                                                  MakeBackend make_backend = nullptr);
  ~InProcessReplica() override;

  Engine& engine() { return *loop_; }
  Metrics& metrics() { return metrics_; }
  const Metrics& metrics() const { return metrics_; }
  const Tokenizer& tokenizer() const { return *text_->tokenizer; }
  // A status: why the model cannot chat.
  const absl::StatusOr<ChatTemplate>& chat_template() const { return text_->chat_template; }
  Rank& rank() { return *rank_; }
  const SkipAdvisor* skip_advisor() const { return skip_advisor_.get(); }
  // What the runner makes of each plan, on its thread. `took`: from when the plan was there and the runner free until
  // its result was handed on. Call it before the first request, if at all.
  using WatchStep = std::function<void(const StepPlan& plan, const StepResult& result, absl::Duration took)>;
  void OnStep(WatchStep watch) { watch_ = std::move(watch); }

 private:
  explicit InProcessReplica(Clock& clock);
  void Send(const StepPlan& plan) override;
  void Reset(const absl::Status& why) override;

  Metrics metrics_;
  std::unique_ptr<ModelText> text_;
  std::unique_ptr<Rank> rank_;
  struct SentPlan {
    StepPlan plan;
    absl::Time sent;
  };
  struct ReportAsked {};  // answers of tiers are there, and perhaps no plan is
  using Order = std::variant<SentPlan, ReportAsked>;
  void RunOrders();

  Clock& clock_;
  WatchStep watch_;
  BoundedQueue<Order> orders_{16};
  std::unique_ptr<SkipAdvisor> skip_advisor_;  // null: nobody would ask it
  std::unique_ptr<ReplicaLoop> loop_;
  Thread runner_;
};

}  // namespace interlace
