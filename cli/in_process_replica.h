// InProcessReplica: scheduler and rank in one process, no network: what `interlace run` and benchmarks use.
#pragma once

#include <memory>
#include <variant>

#include "absl/status/statusor.h"
#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/fault.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/replica_loop.h"
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
  const Tokenizer& tokenizer() const { return *text_->tokenizer; }
  // A status: why the model cannot chat.
  const absl::StatusOr<ChatTemplate>& chat_template() const { return text_->chat_template; }
  Rank& rank() { return *rank_; }

 private:
  InProcessReplica();
  void Send(const StepPlan& plan) override;
  void Reset(const absl::Status& why) override;

  Metrics metrics_;
  std::unique_ptr<ModelText> text_;
  std::unique_ptr<Rank> rank_;
  struct ReportAsked {};  // answers of tiers are there, and perhaps no plan is
  using Order = std::variant<StepPlan, ReportAsked>;
  void RunOrders();

  BoundedQueue<Order> orders_{16};
  std::unique_ptr<ReplicaLoop> loop_;
  Thread runner_;
};

}  // namespace interlace
