// PipelineRanks: the ranks of every stage, each on a thread of its own, given plans that a test makes by hand.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/fault.h"
#include "common/thread.h"
#include "tests/status_matchers.h"
#include "transport/ucx_transport.h"
#include "worker/rank.h"

namespace interlace {

// A transport that shows each message to the test before it leaves.
class WatchedTransport final : public Transport {
 public:
  // `edit` may change the message; any thread.
  using Edit = std::function<void(Channel channel, std::string* header, std::vector<SharedBytes>* parts)>;
  WatchedTransport(std::unique_ptr<Transport> under, Edit edit) : under_(std::move(under)), edit_(std::move(edit)) {}
  const std::string& address() const override { return under_->address(); }
  absl::StatusOr<PeerId> Connect(absl::string_view address) override { return under_->Connect(address); }
  void Send(PeerId peer, Channel channel, std::string header, std::vector<SharedBytes> parts, SendDone done) override {
    if (edit_) edit_(channel, &header, &parts);
    under_->Send(peer, channel, std::move(header), std::move(parts), std::move(done));
  }
  void Listen(Channel channel, Handler handler) override { under_->Listen(channel, std::move(handler)); }
  void OnPeerLost(PeerLost handler) override { under_->OnPeerLost(std::move(handler)); }
  void Close(PeerId peer) override { under_->Close(peer); }

 private:
  const std::unique_ptr<Transport> under_;
  const Edit edit_;
};

// Thread: the test's.
class PipelineRanks {
 public:
  static constexpr Epoch kEpoch{1};

  // Of as many stages as config.cluster.stages says. `edit`: of what the last stage sends.
  PipelineRanks(Config config, MakeBackend make_backend, WatchedTransport::Edit edit = nullptr)
      : stages_(static_cast<size_t>(config.cluster.stages)) {
    for (size_t s = 0; s < stages_.size(); ++s) {
      config.cluster.stage = static_cast<int64_t>(s);
      Stage& stage = stages_[s];
      stage.transport = std::make_unique<WatchedTransport>(*MakeUcxTransport({.host = "127.0.0.1"}),
                                                           s + 1 == stages_.size() ? edit : nullptr);
      stage.rank = *Rank::Create(
          config, s + 1, clock_, faults_, stage.transport.get(), [](int64_t, int64_t) {}, make_backend);
    }
    for (size_t s = 0; s < stages_.size() && stages_.size() > 1; ++s) {
      const bool last = s + 1 == stages_.size();
      EXPECT_OK(stages_[s].rank->activations()->Connect(last ? "" : info(s + 1).transport_address,
                                                        last ? info(0).transport_address : "", kEpoch));
    }
  }

  // Every stage executes the plans, one after another, until one fails. Results by stage.
  std::vector<std::vector<StepResult>> Run(const std::vector<StepPlan>& plans) {
    std::vector<std::vector<StepResult>> results(stages_.size());
    std::vector<Thread> runners;
    for (size_t s = 0; s < stages_.size(); ++s) {
      runners.emplace_back("runner", [this, s, &plans, &results] { results[s] = RunStage(s, plans); });
    }
    for (Thread& runner : runners) runner.Join();
    return results;
  }
  // One stage alone, on the caller's thread.
  std::vector<StepResult> RunStage(size_t stage, const std::vector<StepPlan>& plans) {
    std::vector<StepResult> results;
    for (const StepPlan& plan : plans) {
      results.push_back(stages_[stage].rank->runner().Execute(plan));
      if (!results.back().status.ok()) break;
    }
    return results;
  }
  // The process of the stage is killed.
  void Kill(size_t stage) {
    stages_[stage].rank.reset();
    stages_[stage].transport.reset();
  }
  ActivationChannel& activations(size_t stage) { return *stages_[stage].rank->activations(); }
  const RankInfo& info(size_t stage) const { return stages_[stage].rank->info(); }
  size_t sequences(size_t stage) const { return stages_[stage].rank->runner().pager().sequences(); }

 private:
  struct Stage {
    std::unique_ptr<Transport> transport;
    std::unique_ptr<Rank> rank;
  };
  RealClock clock_;
  FaultPoints faults_;
  std::vector<Stage> stages_;
};

}  // namespace interlace
