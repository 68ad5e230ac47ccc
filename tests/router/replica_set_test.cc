// The threads around the router: loops, and the one that finds new places.
#include "coordinator/router/replica_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/bounded_queue.h"
#include "common/log.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/coordinator/loop_sink.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kTokens = 80;

// Ranks that answer every plan until they are told not to: the token at index i is 10 + i.
class AnsweringRanks final : public PlanChannel {
 public:
  ~AnsweringRanks() override { Join(); }
  void Send(const StepPlan& plan) override { plans_.Push(plan); }
  void Reset(const absl::Status&) override {}
  void Answer(ReplicaLoop& loop) {
    thread_ = Thread("ranks", [this, &loop] {
      while (std::optional<StepPlan> plan = plans_.Pop()) {
        StepResult result{.epoch = plan->epoch, .plan = plan->id};
        for (const PlanSequence& s : plan->sequences) {
          if (s.sample) result.sampled.push_back({s.request, s.attempt, s.sample_index, 10 + s.sample_index});
        }
        loop.OnResult(std::move(result));
      }
    });
  }
  void Join() {
    plans_.Close();
    thread_.Join();
  }

 private:
  BoundedQueue<StepPlan> plans_{1000};
  Thread thread_;
};

class ReplicaSetTest : public testing::Test {
 protected:
  void Start(size_t count) {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    ReplicaSet::Options options{.policy = *FindPolicy("slack"), .routing = *FindRoutingPolicy("prefix")};
    options.loop.scheduler.context = 2000;
    std::vector<ReplicaSet::Member> members;
    for (size_t r = 0; r < count; ++r) {
      members.push_back({ranks_.emplace_back(std::make_unique<AnsweringRanks>()).get()});
    }
    set_ = std::make_unique<ReplicaSet>(options, members, clock_, metrics_);
    for (size_t r = 0; r < count; ++r) Form(static_cast<int32_t>(r));
  }
  void Form(int32_t r) {
    set_->loop(r).OnFormed(Epoch{1}, MakeRanks(2, 1, 8, 1000, 0));
    ASSERT_TRUE(AwaitLoad(set_->loop(r), [](const EngineLoad& load) { return load.ranks_ready == 1; }));
    ranks_[static_cast<size_t>(r)]->Answer(set_->loop(r));
  }
  void TearDown() override {
    for (auto& ranks : ranks_) ranks->Join();
    set_.reset();
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  std::shared_ptr<LoopSink> Submit(int32_t max_tokens) {
    auto sink = std::make_shared<LoopSink>();
    Request request{.id = RequestId{++next_}, .max_tokens = max_tokens, .name = absl::StrCat("r", next_)};
    request.prompt = {1, 2, 3};
    request.sink = sink;
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    EXPECT_OK(set_->engine().Submit(std::move(request)));
    return sink;
  }

  RealClock clock_;
  Metrics metrics_{"test"};
  std::vector<std::unique_ptr<AnsweringRanks>> ranks_;
  std::unique_ptr<ReplicaSet> set_;
  uint64_t next_ = 0;
};

TEST_F(ReplicaSetTest, OfOneReplicaTheEngineIsItsLoop) {
  Start(1);
  EXPECT_EQ(&set_->engine(), &set_->loop(0));
  EXPECT_OK(Submit(3)->AwaitEnd().status);
  EXPECT_EQ(metrics_.Text().find("replica=\""), std::string::npos);
}

TEST_F(ReplicaSetTest, StreamsOfALostReplicaGoOnWithoutAGapOrARepeatedToken) {
  Start(3);
  std::vector<std::shared_ptr<LoopSink>> sinks;
  for (int32_t i = 0; i < 12; ++i) sinks.push_back(Submit(kTokens));
  set_->loop(0).OnLost(absl::UnavailableError("scripted loss"));
  set_->loop(2).OnLost(absl::UnavailableError("scripted loss"));
  std::vector<int32_t> expected;
  for (int32_t i = 0; i < kTokens; ++i) expected.push_back(10 + i);
  for (const auto& sink : sinks) {
    EXPECT_OK(sink->AwaitEnd().status);
    EXPECT_EQ(sink->tokens(), expected);
  }
}

TEST_F(ReplicaSetTest, SeriesOfReplicasBearTheirNumber) {
  Start(2);
  EXPECT_OK(Submit(3)->AwaitEnd().status);
  const std::string text = metrics_.Text();
  EXPECT_NE(text.find("vllm:num_requests_running{model_name=\"test\",replica=\"0\"}"), std::string::npos) << text;
  EXPECT_NE(text.find("vllm:num_requests_running{model_name=\"test\",replica=\"1\"}"), std::string::npos);
  EXPECT_EQ(text.find("vllm:num_requests_running{model_name=\"test\"}"), std::string::npos) << "counted twice";
}

}  // namespace
}  // namespace interlace
