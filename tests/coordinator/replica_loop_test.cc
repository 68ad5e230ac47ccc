// The loop around the scheduler: what it refuses at the door, and that everything it took ends.
#include "coordinator/replica_loop.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/coordinator/loop_sink.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class QueueChannel final : public PlanChannel {
 public:
  void Send(const StepPlan& plan) override {
    absl::MutexLock lock(&blocked);
    plans.Push(plan);
  }
  void Reset(const absl::Status&) override {}
  absl::Mutex blocked;  // held by a test: Send waits
  BoundedQueue<StepPlan> plans{1000};
};

class ReplicaLoopTest : public testing::Test {
 protected:
  ReplicaLoopTest() {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    options_.scheduler.context = 100;
    options_.max_waiting = 2;
  }
  ~ReplicaLoopTest() override {
    channel_.plans.Close();
    ranks_.Join();
    loop_.reset();
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  void Start(bool formed = true) {
    loop_ = std::make_unique<ReplicaLoop>(options_, **FindPolicy("stream"), clock_, metrics_, channel_);
    if (!formed) return;
    loop_->OnFormed(Epoch{1}, MakeRanks(2, 1, 8, /*slots=*/16, /*frames=*/0));  // 8 blocks of 8 tokens
    ASSERT_TRUE(AwaitLoad(*loop_, [](const EngineLoad& load) { return load.ranks_ready == 1; }));
  }
  // A rank that answers every plan.
  void StartRank() {
    ranks_ = Thread("rank", [this] {
      while (std::optional<StepPlan> plan = channel_.plans.Pop()) {
        StepResult result{.epoch = plan->epoch, .plan = plan->id};
        for (const PlanSequence& s : plan->sequences) {
          if (s.sample) result.sampled.push_back({s.request, s.attempt, s.sample_index, 5});
        }
        loop_->OnResult(std::move(result));
      }
    });
  }
  Request Make(int32_t prompt, int32_t max_tokens) {
    sink_ = std::make_shared<LoopSink>();
    Request request{.id = RequestId{++next_}, .name = absl::StrCat("r", next_)};
    request.prompt.assign(prompt, 1);
    request.max_tokens = max_tokens;
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.sink = sink_;
    return request;
  }
  absl::Status Submit(int32_t prompt, int32_t max_tokens) { return loop_->Submit(Make(prompt, max_tokens)); }

  RealClock clock_;
  Metrics metrics_{"test"};
  QueueChannel channel_;
  ReplicaLoop::Options options_;
  std::unique_ptr<ReplicaLoop> loop_;
  std::shared_ptr<LoopSink> sink_;  // of the latest request
  uint64_t next_ = 0;
  Thread ranks_;
};

TEST_F(ReplicaLoopTest, RefusesUntilRanksAreReady) {
  Start(/*formed=*/false);
  EXPECT_THAT(Submit(1, 1), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("ranks")));
  EXPECT_EQ(loop_->Load().ranks, 1);
  EXPECT_EQ(loop_->Load().ranks_ready, 0);
}

TEST_F(ReplicaLoopTest, RefusesWhatCanNeverRun) {
  Start();
  EXPECT_THAT(Submit(100, 1),
              StatusIs(absl::StatusCode::kInvalidArgument, AllOf(HasSubstr("100"), HasSubstr("context"))));
  EXPECT_THAT(Submit(0, 1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(Submit(1, -1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_tokens=-1")));
  EXPECT_THAT(Submit(64, 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, AllOf(HasSubstr("never"), HasSubstr("kv.device_bytes"))));
  EXPECT_OK(Submit(60, 4));
}

TEST_F(ReplicaLoopTest, ADefaultOfMaxTokensIsLoweredToWhatFits) {
  Start();
  StartRank();
  Request request = Make(40, 60);  // 64 tokens fit
  request.max_tokens_given = false;
  ASSERT_OK(loop_->Submit(std::move(request)));
  const RequestEnd end = sink_->AwaitEnd();
  EXPECT_OK(end.status);
  EXPECT_EQ(end.reason, FinishReason::kLength);
  EXPECT_GE(end.completion_tokens, 12);
  EXPECT_LE(end.completion_tokens, 24);
  EXPECT_THAT(Submit(40, 60), StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("never")));
}

TEST_F(ReplicaLoopTest, RefusesMoreThanMayWait) {
  options_.scheduler.max_running = 1;
  Start();
  ASSERT_OK(Submit(1, 9));
  ASSERT_TRUE(AwaitLoad(*loop_, [](const EngineLoad& load) { return load.running == 1 && load.waiting == 0; }));
  ASSERT_OK(Submit(1, 9));
  ASSERT_OK(Submit(1, 9));
  const auto third = sink_;
  EXPECT_THAT(Submit(1, 9), StatusIs(absl::StatusCode::kResourceExhausted,
                                     AllOf(HasSubstr("2 requests"), HasSubstr("sched.max_waiting=2"))));
  loop_->Stop(RequestId{77});
  loop_->Cancel(RequestId{3});
  EXPECT_EQ(third->AwaitEnd().status.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(AwaitLoad(*loop_, [](const EngineLoad& load) { return load.waiting == 1; }));
  EXPECT_OK(Submit(1, 9));
}

TEST_F(ReplicaLoopTest, TheQueueIsAsLongAsItsTime) {
  options_.scheduler.max_running = 1;
  options_.max_waiting = 100;
  options_.max_queue_time = absl::Nanoseconds(1);
  Start();
  for (int i = 0; i < 3; ++i) ASSERT_OK(Submit(1, 9)) << "how long they take is not known";
  ASSERT_TRUE(AwaitLoad(*loop_, [](const EngineLoad& load) { return load.running == 1 && load.waiting == 2; }));
  EXPECT_EQ(loop_->Load().queue_room, absl::ZeroDuration());
  loop_->Stop(RequestId{1});
  ASSERT_TRUE(AwaitLoad(*loop_, [](const EngineLoad& load) { return load.turnover > absl::ZeroDuration(); }));
  EXPECT_THAT(Submit(1, 9), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("sched.max_queue_time=1ns")));
  const EngineLoad load = loop_->Load();
  EXPECT_EQ(load.queue_room, load.waiting * load.turnover);
}

TEST_F(ReplicaLoopTest, ExplainsByName) {
  Start();
  ASSERT_OK(Submit(5, 9));
  EXPECT_EQ(loop_->Explain("r1")->end.prompt_tokens, 5);
  EXPECT_THAT(loop_->Explain("r2"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("r2")));
}

TEST_F(ReplicaLoopTest, ALookShowsWhatIsThere) {
  Start();
  ASSERT_OK(Submit(5, 9));
  absl::StatusOr<ReplicaSnapshot> look = loop_->Snapshot();
  ASSERT_OK(look);
  EXPECT_EQ(look->ranks, 1);
  EXPECT_EQ(look->ranks_ready, 1);
  EXPECT_FALSE(look->draining);
  ASSERT_EQ(look->requests.size(), 1u);
  EXPECT_EQ(look->requests[0].name, "r1");
}

TEST_F(ReplicaLoopTest, WhatWasTakenEndsWhenTheLoopDies) {
  options_.max_waiting = 1 << 30;
  Start();
  ReplicaLoop* loop = loop_.get();
  channel_.blocked.Lock();  // the loop waits inside Send, so that what comes now stays in its inbox
  std::vector<std::shared_ptr<LoopSink>> taken;
  {
    Thread dying;
    Request request = Make(1, 3);
    while (loop->Submit(std::move(request)).ok()) {
      taken.push_back(sink_);
      if (!dying.joinable()) dying = Thread("dying", [this] { loop_.reset(); });
      request = Make(1, 3);
    }
    channel_.blocked.Unlock();
  }
  EXPECT_GE(taken.size(), 1u);
  for (const auto& sink : taken) ASSERT_EQ(sink->AwaitEnd().status.code(), absl::StatusCode::kCancelled);
}

TEST(LoopOptionsTest, FollowFromTheConfiguration) {
  Config config;
  EXPECT_EQ(LoopOptions(config, 77)->scheduler.fixed_keep, -1);
  EXPECT_EQ(LoopOptions(config, 77)->scheduler.context, 77);
  config.kv.keep_layers = "3";
  config.cluster.stages = 2;
  EXPECT_EQ(LoopOptions(config, 77)->scheduler.fixed_keep, 3);
  EXPECT_EQ(LoopOptions(config, 77)->ranks, 2);
  EXPECT_FALSE(LoopOptions(config, 77)->scheduler.release_at_pace);
  config.sched.release = "pace";
  EXPECT_TRUE(LoopOptions(config, 77)->scheduler.release_at_pace);
  config.sched.release = "later";
  EXPECT_THAT(LoopOptions(config, 77), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("now or pace")));
  config.sched.release = "now";
  // The guesses of a rank are of one that runs the whole model.
  for (const char* speculate : {"self", "draft-model"}) {
    config.sched.speculate = speculate;
    EXPECT_THAT(LoopOptions(config, 77),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(absl::StrCat("sched.speculate=", speculate)), HasSubstr("cluster.stages=1"))));
  }
  config.cluster.stages = 1;
  EXPECT_EQ(LoopOptions(config, 77)->scheduler.speculate, Speculate::kModel);
  config.sched.speculate = "some";
  EXPECT_THAT(LoopOptions(config, 77), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("draft-model or auto")));
}

}  // namespace
}  // namespace interlace
