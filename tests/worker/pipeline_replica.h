// PipelineReplica: the scheduler and the ranks of every stage in one process, for tests.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/bounded_queue.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/replica_loop.h"
#include "tests/status_matchers.h"
#include "transport/ucx_transport.h"
#include "worker/rank.h"

namespace interlace {

// What one rank holds between plans.
struct Holding {
  size_t sequences = 0;
  int32_t arena_used = 0;
  int64_t tier_blocks = 0;
  int32_t scheduled_blocks = 0;  // logical, of the scheduler
  bool nothing() const { return sequences == 0 && arena_used == 0 && tier_blocks == 0 && scheduled_blocks == 0; }
};

// Every plan goes to every rank's own thread; results go to the loop as they come. Activations travel over UCX.
class PipelineReplica final : public PlanChannel {
 public:
  // config.cluster.stages says how many. A status if a rank cannot be made.
  static absl::StatusOr<std::unique_ptr<PipelineReplica>> Create(const Config& config, Clock& clock,
                                                                 FaultPoints& faults,
                                                                 MakeBackend make_backend = nullptr) {
    std::unique_ptr<PipelineReplica> replica(new PipelineReplica);
    absl::Status status = replica->Build(config, clock, faults, make_backend);
    if (!status.ok()) return status;
    return replica;
  }
  ~PipelineReplica() override {
    for (const std::unique_ptr<Stage>& stage : stages_) {
      if (stage->rank != nullptr && stage->rank->activations() != nullptr) stage->rank->activations()->Interrupt();
      stage->orders.Close();
    }
    for (const std::unique_ptr<Stage>& stage : stages_) {
      if (stage->runner.joinable()) stage->runner.Join();
    }
    loop_.reset();
  }

  Engine& engine() { return *loop_; }
  Metrics& metrics() { return metrics_; }
  const ModelSpec& spec() const { return stages_[0]->rank->spec(); }
  int64_t resets() {
    absl::MutexLock lock(&mutex_);
    return resets_;
  }

  // Asks the ranks until they hold nothing: releases travel with the next plan, tiers forget a little later.
  // What the last rank asked still held, if that never happens.
  Holding AwaitNothingHeld(Clock& clock) {
    const absl::Time late = clock.Now() + absl::Seconds(20);
    Holding held;
    for (const std::unique_ptr<Stage>& stage : stages_) {
      do {
        held = Ask(*stage);
      } while (!held.nothing() && clock.Now() < late);
      if (!held.nothing()) return held;
    }
    return held;
  }

 private:
  struct Question {
    Holding answer;
    absl::Notification answered;
  };
  using Order = std::variant<StepPlan, std::shared_ptr<Question>>;
  struct Stage {
    std::unique_ptr<Transport> transport;
    std::unique_ptr<Rank> rank;
    BoundedQueue<Order> orders{64};
    Thread runner;
  };

  PipelineReplica() : metrics_("pipeline") {}

  absl::Status Build(Config config, Clock& clock, FaultPoints& faults, MakeBackend make_backend) {
    const int64_t count = config.cluster.stages;
    const std::string folder = config.kv.rocksdb_dir;
    std::vector<RankInfo> infos;
    for (int64_t s = 0; s < count; ++s) {
      stages_.push_back(std::make_unique<Stage>());
      Stage& stage = *stages_.back();
      config.cluster.stage = s;
      if (!folder.empty()) config.kv.rocksdb_dir = absl::StrCat(folder, "/stage", s);
      if (count > 1) stage.transport = *MakeUcxTransport({.host = "127.0.0.1"});
      auto rank = Rank::Create(
          config, s + 1, clock, faults, stage.transport.get(), [](int64_t, int64_t) {}, make_backend);
      if (!rank.ok()) return rank.status();
      stage.rank = *std::move(rank);
      infos.push_back(stage.rank->info());
    }
    for (size_t s = 0; s + 1 < stages_.size(); ++s) {
      absl::Status status = stages_[s]->rank->activations()->Connect(infos[s + 1].transport_address);
      if (!status.ok()) return status;
    }
    loop_ =
        std::make_unique<ReplicaLoop>(LoopOptions(config, infos[0].layers > 0 ? spec().context : 0),
                                      *MakePolicy(config.sched.policy), clock, MakeSeededEntropy(7), metrics_, *this);
    for (const std::unique_ptr<Stage>& stage : stages_) {
      stage->runner = Thread("runner", [this, stage = stage.get()] { Run(*stage); });
    }
    loop_->OnFormed(Epoch{1}, infos);
    while (loop_->Load().ranks_ready == 0) (void)loop_->Explain("");
    return absl::OkStatus();
  }

  void Run(Stage& stage) {
    while (std::optional<Order> order = stage.orders.Pop()) {
      ModelRunner& runner = stage.rank->runner();
      if (const StepPlan* plan = std::get_if<StepPlan>(&*order)) {
        loop_->OnResult(runner.Execute(*plan));
        continue;
      }
      const StepResult report = runner.Report(Epoch{1});
      Question& question = *std::get<std::shared_ptr<Question>>(*order);
      question.answer = {runner.window().sequences(), report.arena_used, 0, loop_->Load().blocks_held};
      for (const TierUse& tier : report.tiers) question.answer.tier_blocks += tier.blocks;
      question.answered.Notify();
    }
  }

  Holding Ask(Stage& stage) {
    auto question = std::make_shared<Question>();
    stage.orders.Push(question);
    EXPECT_TRUE(question->answered.WaitForNotificationWithTimeout(absl::Seconds(60))) << "a rank hangs";
    return question->answer;
  }

  void Send(const StepPlan& plan) override {
    for (const std::unique_ptr<Stage>& stage : stages_) stage->orders.Push(plan);
  }
  void Reset(const absl::Status& why) override {
    ADD_FAILURE() << "the replica was reset: " << why;
    absl::MutexLock lock(&mutex_);
    ++resets_;
  }

  Metrics metrics_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::unique_ptr<ReplicaLoop> loop_;
  absl::Mutex mutex_;
  int64_t resets_ = 0;  // protected by mutex_
};

}  // namespace interlace
