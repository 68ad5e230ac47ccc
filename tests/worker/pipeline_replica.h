// PipelineReplica: the scheduler and the ranks of every stage in one process, for tests.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/bounded_queue.h"
#include "common/entropy.h"
#include "common/metrics.h"
#include "common/thread.h"
#include "coordinator/replica_loop.h"
#include "coordinator/skip_index/skip_advisor.h"
#include "tests/status_matchers.h"
#include "transport/ucx_transport.h"
#include "worker/rank.h"

namespace interlace {

// What one rank holds for requests between plans. Sealed blocks that nobody uses stay as cache and do not count.
struct Holding {
  size_t sequences = 0;
  int32_t scheduled_blocks = 0;  // of the scheduler's account
  bool nothing() const { return sequences == 0 && scheduled_blocks == 0; }
};

// Every plan goes to every rank's own thread; results go to the loop as they come. Activations travel over UCX.
class PipelineReplica final : public PlanChannel {
 public:
  // Changes a plan before the ranks get it, in ways that the scheduler has no part in.
  using Rewrite = std::function<void(StepPlan*)>;

  // config.cluster.stages, tensor_ranks and sequence_ranks say how many. A status if a rank cannot be made.
  static absl::StatusOr<std::unique_ptr<PipelineReplica>> Create(
      const Config& config, Clock& clock, FaultPoints& faults, MakeBackend make_backend = nullptr,
      int32_t draft_tokens = 0, Speculate speculate = Speculate::kNgram, Rewrite rewrite = nullptr) {
    std::unique_ptr<PipelineReplica> replica(new PipelineReplica);
    replica->rewrite_ = std::move(rewrite);
    absl::Status status = replica->Build(config, clock, faults, make_backend, draft_tokens, speculate);
    if (!status.ok()) return status;
    return replica;
  }
  ~PipelineReplica() override {
    {
      absl::MutexLock lock(&mutex_);
      closing_ = true;
    }
    for (const std::unique_ptr<Stage>& stage : stages_) {
      if (stage->rank == nullptr) continue;
      stage->rank->runner().OnAnswers(nullptr);
      stage->rank->Interrupt();
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

  // Asks the ranks until they hold nothing for requests: releases travel with the next plan.
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

  // Asks the ranks until the first tier of each holds at least `extents` (blocks x layers): writes come later than the
  // blocks they are of. False: they never do.
  bool AwaitStored(Clock& clock, int64_t extents) {
    const absl::Time late = clock.Now() + absl::Seconds(20);
    for (const std::unique_ptr<Stage>& stage : stages_) {
      while (stage->rank->pool().tiers().Usage()[0].blocks < extents) {
        if (clock.Now() >= late) return false;
        (void)Ask(*stage);
      }
    }
    return true;
  }

  static constexpr Epoch kEpoch{1};

 private:
  struct Question {
    Holding answer;
    absl::Notification answered;
  };
  struct ReportAsked {};  // answers of tiers are there
  using Order = std::variant<StepPlan, ReportAsked, std::shared_ptr<Question>>;
  struct Stage {
    std::unique_ptr<Transport> transport;
    std::unique_ptr<Rank> rank;
    BoundedQueue<Order> orders{64};
    Thread runner;
  };

  PipelineReplica() : metrics_("pipeline") {}

  absl::Status Build(Config config, Clock& clock, FaultPoints& faults, MakeBackend make_backend, int32_t draft_tokens,
                     Speculate speculate) {
    const bool by_rows = config.cluster.sequence_ranks > 1;
    const int64_t shared = RanksOfStage(config), count = RanksOfReplica(config);
    const std::string folder = config.kv.rocksdb_dir;
    std::vector<RankInfo> infos;
    for (int64_t s = 0; s < count; ++s) {
      stages_.push_back(std::make_unique<Stage>());
      Stage& stage = *stages_.back();
      config.cluster.stage = s / shared;
      (by_rows ? config.cluster.sequence_rank : config.cluster.tensor_rank) = s % shared;
      if (!folder.empty()) config.kv.rocksdb_dir = absl::StrCat(folder, "/stage", s);
      if (count > 1) stage.transport = *MakeUcxTransport({.host = "127.0.0.1"});
      auto rank = Rank::Create(
          config, s + 1, clock, faults, stage.transport.get(), [](int64_t, int64_t) {}, make_backend);
      if (!rank.ok()) return rank.status();
      stage.rank = *std::move(rank);
      infos.push_back(stage.rank->info());
    }
    for (int64_t r = 0; r < count; ++r) {
      const bool first = r < shared, last = r + shared >= count;
      std::vector<std::string> group;
      for (int64_t t = 0; t < shared; ++t) group.push_back(infos[r / shared * shared + t].collective_address);
      absl::Status status =
          stages_[r]->rank->Connect(last ? "" : infos[r + shared].transport_address,
                                    last && !first ? infos[r % shared].transport_address : "", group, kEpoch);
      if (!status.ok()) return status;
    }
    ReplicaLoop::Options options = *LoopOptions(config, spec().context);
    options.scheduler.draft_tokens = draft_tokens;
    options.scheduler.speculate = speculate;
    options.scheduler.adapt_drafts = false;
    // Streams draft by plans that are tried at random, and give the keys of their prompts.
    if (count == 1 && spec().layers >= 3) {
      advisor_ = std::make_unique<SkipAdvisor>(
          SkipAdvisor::Options{.model_digest = spec().digest, .layers = spec().layers, .explore = 1},
          MakeSeededEntropy(1));
    }
    options.scheduler.skip_advisor = advisor_.get();
    loop_ = std::make_unique<ReplicaLoop>(options, **FindPolicy(config.sched.policy), clock, metrics_, *this);
    for (const std::unique_ptr<Stage>& stage : stages_) {
      stage->rank->runner().OnAnswers([stage = stage.get()] { stage->orders.TryPush(ReportAsked{}); });
      stage->runner = Thread("runner", [this, stage = stage.get()] { Run(*stage); });
    }
    loop_->OnFormed(kEpoch, infos);
    while (loop_->Load().ranks_ready == 0) (void)loop_->Explain("");
    return absl::OkStatus();
  }

  void Run(Stage& stage) {
    while (std::optional<Order> order = stage.orders.Pop()) {
      ModelRunner& runner = stage.rank->runner();
      if (const StepPlan* plan = std::get_if<StepPlan>(&*order)) {
        loop_->OnResult(runner.Execute(*plan, [&stage] {
          const Order* const following = stage.orders.Front();
          return following == nullptr ? nullptr : std::get_if<StepPlan>(following);
        }));
        continue;
      }
      loop_->OnResult(runner.Report(kEpoch));
      if (std::holds_alternative<ReportAsked>(*order)) continue;
      Question& question = *std::get<std::shared_ptr<Question>>(*order);
      (void)loop_->Explain("");  // the loop has taken the report
      question.answer = {runner.pager().sequences(), loop_->Load().blocks_held};
      question.answered.Notify();
    }
  }

  Holding Ask(Stage& stage) {
    auto question = std::make_shared<Question>();
    stage.orders.Push(question);
    EXPECT_TRUE(question->answered.WaitForNotificationWithTimeout(absl::Seconds(60))) << "a rank hangs";
    return question->answer;
  }

  void Send(const StepPlan& made) override {
    StepPlan plan = made;
    if (rewrite_) rewrite_(&plan);
    for (const std::unique_ptr<Stage>& stage : stages_) stage->orders.Push(plan);
  }
  void Reset(const absl::Status& why) override {
    absl::MutexLock lock(&mutex_);
    if (closing_) return;  // ranks are interrupted in plans that nobody waits for any more
    ADD_FAILURE() << "the replica was reset: " << why;
    ++resets_;
  }

  Rewrite rewrite_;
  Metrics metrics_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::unique_ptr<SkipAdvisor> advisor_;
  std::unique_ptr<ReplicaLoop> loop_;
  absl::Mutex mutex_;
  int64_t resets_ = 0;    // protected by mutex_
  bool closing_ = false;  // protected by mutex_
};

}  // namespace interlace
