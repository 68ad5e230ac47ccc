// Single cases of the scheduler: answers that make no sense, ends, preemption, replicas that shrink.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "common/log.h"
#include "coordinator/scheduler.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Keeps plans; the test answers them.
class KeepingChannel final : public PlanChannel {
 public:
  void Send(const StepPlan& plan) override { plans.push_back(plan); }
  void Reset(const absl::Status& why) override { resets.push_back(why); }
  std::vector<StepPlan> plans;
  std::vector<absl::Status> resets;
};

class SchedulerCase : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    options_.context = 1000;
    options_.rank_timeout = absl::Seconds(60);
    options_.reform_timeout = absl::Seconds(15);
  }
  void TearDown() override {
    scheduler_.reset();
    SetLogSink(nullptr, LogLevel::kInfo);
  }

  // `slots` hold the KV of `stages` stages that have two layers each; blocks of 8 tokens.
  void Form(int32_t stages, int32_t slots = 1000, int32_t frames = 0) {
    std::vector<RankInfo> ranks = MakeRanks(2 * stages, stages, 8, slots, frames);
    ranks[0].incarnation = incarnation_;
    if (scheduler_ == nullptr) {
      scheduler_ = std::make_unique<Scheduler>(options_, **FindPolicy("stream"), clock_, metrics_, channel_);
    }
    scheduler_->OnFormed(Epoch{++epoch_}, ranks);
    answered_.assign(stages, channel_.plans.size());
    Run();
  }
  std::shared_ptr<WatchedSink> Admit(int32_t prompt, int32_t max_tokens, uint64_t id = 0) {
    auto sink = std::make_shared<WatchedSink>();
    Request request{.id = RequestId{id > 0 ? id : ++next_request_}};
    request.name = absl::StrCat("r", Value(request.id));
    request.prompt.assign(prompt, static_cast<int32_t>(Value(request.id) % kVocab));
    request.max_tokens = max_tokens;
    request.arrival = clock_.Now();
    request.deadline = clock_.Now() + deadline_;
    request.sink = sink;
    scheduler_->Admit(std::move(request));
    Run();
    return sink;
  }
  void Run() {
    scheduler_->RunOnce();
    scheduler_->CheckInvariants();
  }
  // The oldest plan that the stage has not answered, and the answer; the last stage samples the token 5.
  bool Waiting(int32_t stage) const { return answered_[stage] < channel_.plans.size(); }
  const StepPlan& Next(int32_t stage) const { return channel_.plans.at(answered_[stage]); }
  StepResult Answer(int32_t stage, bool last) const {
    const StepPlan& plan = Next(stage);
    StepResult result{.epoch = plan.epoch, .plan = plan.id, .stage = StageId{stage}};
    for (const PlanSequence& s : plan.sequences) {
      for (int32_t k = 0; last && s.sample && k <= s.drafts; ++k) {
        result.sampled.push_back({s.request, s.attempt, s.sample_index + k, 5, {}});
      }
    }
    return result;
  }
  void Take(StepResult result) {
    const auto stage = static_cast<size_t>(Value(result.stage));
    if (stage < answered_.size() && Waiting(static_cast<int32_t>(stage)) &&
        result.epoch == Next(static_cast<int32_t>(stage)).epoch &&
        result.plan == Next(static_cast<int32_t>(stage)).id) {
      ++answered_[stage];
    }
    scheduler_->OnResult(std::move(result));
    Run();
  }
  // Answers the plans of a single stage until nothing is left.
  void AnswerAll() {
    for (int i = 0; i < 10000 && Waiting(0); ++i) Take(Answer(0, true));
    ASSERT_TRUE(scheduler_->idle());
  }
  // A single stage loses the request in the oldest plan, and answers the others until one runs sequences again.
  void Lose(uint64_t request, int32_t block, LossCause cause) {
    const size_t sent = channel_.plans.size();
    StepResult result = Answer(0, true);
    std::erase_if(result.sampled, [&](const SampledToken& t) { return t.request == RequestId{request}; });
    result.lost.push_back({RequestId{request}, Next(0).sequences.at(0).attempt, LayerId{1}, block, cause, "why"});
    Take(result);
    while (answered_[0] < sent || (Waiting(0) && Next(0).sequences.empty())) Take(Answer(0, true));
  }
  double Stale() const { return metrics_.Total("interlace_stale_messages_total"); }

  ManualClock clock_;
  Metrics metrics_{"test"};
  KeepingChannel channel_;
  Scheduler::Options options_;
  absl::Duration deadline_ = absl::InfiniteDuration();
  std::vector<size_t> answered_;  // by stage: plans
  uint64_t epoch_ = 0, next_request_ = 0;
  uint64_t incarnation_ = 1;  // of the rank of stage 0
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(SchedulerCase, AnswersThatFitNoPlanChangeNothing) {
  Form(2);
  const auto sink = Admit(10, 1);
  ASSERT_THAT(channel_.plans, SizeIs(1));
  StepResult old_epoch = Answer(1, true), unknown_plan = Answer(1, true), no_stage = Answer(1, true);
  old_epoch.epoch = Epoch{99};
  unknown_plan.plan = PlanId{99};
  no_stage.stage = StageId{2};
  const StepResult first = Answer(0, false);
  Take(first);
  Take(old_epoch);
  Take(unknown_plan);
  Take(no_stage);
  Take(first);  // the same stage again
  EXPECT_EQ(Stale(), 4);
  EXPECT_FALSE(sink->end);
  Take(Answer(1, true));
  ASSERT_TRUE(sink->end);
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(sink->delivered, std::vector<int32_t>{5});
}

TEST_F(SchedulerCase, ALastStageThatAnswersNoGoodTokenEndsTheRequest) {
  for (const char* fault : {"index", "none", "not finite"}) {
    SCOPED_TRACE(fault);
    Form(1);
    const auto sink = Admit(10, 4);
    StepResult result = Answer(0, true);
    if (fault == std::string("index")) result.sampled[0].index = 1;
    if (fault == std::string("none")) result.sampled.clear();
    if (fault == std::string("not finite")) result.sampled[0].token = -1;
    Take(result);
    ASSERT_TRUE(sink->end) << "it would wait for ever";
    EXPECT_EQ(sink->end->status.code(), absl::StatusCode::kInternal) << sink->end->status;
    EXPECT_THAT(sink->delivered, SizeIs(0));
  }
}

// Prompts that read layers from the host get the rows that hide their reads, and no more than the step has left.
TEST_F(SchedulerCase, RowsThatHideReadsFitTheStep) {
  options_.fixed_keep = 1;
  options_.chunk_tokens = 16;
  options_.step_tokens = 40;
  CostModel slow_link;
  for (int32_t rows = 1; rows <= 40; ++rows) slow_link.Observe(StepWork().Add(0, rows), absl::Milliseconds(rows));
  slow_link.ObserveTransfer(Route::kIn, 1, absl::Seconds(1));
  options_.learned.Put(CostKey(MakeRanks(2, 1, 8, 1000, 1000)), slow_link);
  Form(1, 1000, 1000);
  for (int i = 0; i < 5; ++i) Admit(150 + 7 * i, 2);
  int32_t most = 0;
  while (Waiting(0)) {
    most = std::max(most, Next(0).tokens());
    ASSERT_LE(Next(0).tokens(), options_.step_tokens) << Next(0).ToString();
    Take(Answer(0, true));
  }
  EXPECT_EQ(most, options_.step_tokens);
  EXPECT_TRUE(scheduler_->idle());
}

TEST_F(SchedulerCase, ARankThatHasNothingToDoHasNoGap) {
  Form(1);
  const auto answer_each = [&](int64_t gap_us) {
    while (Waiting(0)) {
      StepResult result = Answer(0, true);
      result.gap_us = gap_us;
      Take(std::move(result));
    }
  };
  Admit(10, 1);
  answer_each(9'000'000);  // nobody ran before
  Admit(10, 4);
  answer_each(60);  // its first step follows none
  Admit(10, 1);
  answer_each(9'000'000);
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("interlace_rank_gap_seconds_count{model_name=\"test\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("interlace_rank_gap_seconds_bucket{model_name=\"test\",le=\"0.0001\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("interlace_rank_gap_seconds_bucket{model_name=\"test\",le=\"5e-05\"} 0\n"));
}

TEST_F(SchedulerCase, UseReportedForARequestThatNeverRanIsIgnored) {
  options_.max_running = 1;
  Form(1);
  const auto first = Admit(10, 2), second = Admit(10, 2);
  StepResult result = Answer(0, true);
  result.traffic.push_back({.request = RequestId{2}, .layer = LayerId{1}, .bytes_in = 5});
  result.traffic.push_back({.request = RequestId{1}, .layer = LayerId{99}, .bytes_in = 5});
  result.traffic.push_back({.request = RequestId{1}, .layer = LayerId{1}, .bytes_in = 5});
  Take(result);
  EXPECT_EQ(scheduler_->Explain("r1")->layers.at(1).bytes_in, 5);
  EXPECT_THAT(scheduler_->Explain("r2")->layers, SizeIs(0));
  AnswerAll();
}

TEST_F(SchedulerCase, ALossBeginsAnAttemptThatAdoptsWhatIsWhole) {
  options_.chunk_tokens = 16;
  Form(1);
  const auto sink = Admit(40, 2);
  Take(Answer(0, true));  // positions 0-15 and with them two blocks
  for (const auto& [block, start] : std::vector<std::pair<int32_t, int32_t>>{{2, 16}, {1, 8}, {0, 0}}) {
    ASSERT_EQ(Next(0).sequences.size(), 1u);
    const uint32_t attempt = Next(0).sequences[0].attempt;
    Lose(1, block, LossCause::kCorrupt);
    const PlanSequence& again = Next(0).sequences.at(0);
    EXPECT_EQ(again.attempt, attempt + 1);
    EXPECT_EQ(again.start, start) << block;
    ASSERT_TRUE(again.opening);
    EXPECT_EQ(again.opening->adopted.size(), static_cast<size_t>(start / 8));
    EXPECT_EQ(again.opening->prefix, std::vector<int32_t>(start, 1));
  }
  AnswerAll();
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(sink->delivered, (std::vector<int32_t>{5, 5}));
  const Explanation explanation = *scheduler_->Explain("r1");
  EXPECT_EQ(explanation.recomputes, 3);
  EXPECT_THAT(explanation.Texts(), Contains(HasSubstr("corrupt")));
}

TEST_F(SchedulerCase, TooManyLossesEndTheRequestAndNameTheSetting) {
  options_.max_recomputes = 2;
  for (const auto& [cause, code] :
       std::vector<std::pair<LossCause, absl::StatusCode>>{{LossCause::kNoSlot, absl::StatusCode::kResourceExhausted},
                                                           {LossCause::kMissing, absl::StatusCode::kDataLoss}}) {
    Form(1);
    const auto sink = Admit(10, 2);
    for (int i = 0; i < 3; ++i) {
      ASSERT_FALSE(sink->end);
      Lose(next_request_, 0, cause);
    }
    ASSERT_TRUE(sink->end);
    EXPECT_THAT(sink->end->status, StatusIs(code, AllOf(HasSubstr("sched.max_recomputes=2"), HasSubstr("why"))));
  }
}

TEST_F(SchedulerCase, ARecomputedTokenHasOneCause) {
  options_.chunk_tokens = 16;
  Form(1);
  const auto sink = Admit(40, 2);
  Lose(1, 0, LossCause::kCorrupt);
  AnswerAll();
  EXPECT_OK(sink->end->status);
  int32_t planned = 0;
  for (const StepPlan& plan : channel_.plans) planned += plan.tokens();
  const int32_t again = planned - (40 + 2 - 1);
  EXPECT_GT(again, 0);
  EXPECT_THAT(metrics_.Text(),
              HasSubstr(absl::StrCat("interlace_recomputed_tokens_total{model_name=\"test\",cause=\"corrupt\"} ", again,
                                     "\n")));
  EXPECT_EQ(metrics_.Total("interlace_recomputed_tokens_total"), again) << "counted under another cause too";
}

// The second request adopts what the first was to seal. It loses its KV with the first one's, through no fault of its
// own.
TEST_F(SchedulerCase, ALossIsChargedToWhoLostTheBlockAlone) {
  options_.max_recomputes = 0;
  options_.chunk_tokens = 16;
  Form(1);
  const auto first = Admit(40, 2, /*id=*/1), second = Admit(40, 2, /*id=*/1 + kVocab);  // the same tokens
  Take(Answer(0, true));
  ASSERT_EQ(channel_.plans.size(), 3u);
  ASSERT_TRUE(std::any_of(channel_.plans[2].sequences.begin(), channel_.plans[2].sequences.end(),
                          [](const PlanSequence& s) { return s.opening && s.opening->adopted.size() == 4; }))
      << "blocks 2 and 3 are those of the plan in flight";
  for (uint64_t lost : {uint64_t{1}, uint64_t{1 + kVocab}}) {
    StepResult result = Answer(0, true);
    std::erase_if(result.sampled, [&](const SampledToken& t) { return t.request == RequestId{lost}; });
    result.lost.push_back({RequestId{lost}, 1, LayerId{0}, 2, LossCause::kMissing, "why"});
    Take(result);
  }
  ASSERT_TRUE(first->end);
  EXPECT_THAT(first->end->status, StatusIs(absl::StatusCode::kDataLoss, HasSubstr("sched.max_recomputes=0")));
  EXPECT_FALSE(second->end) << second->end->status;
  AnswerAll();
  EXPECT_OK(second->end->status);
  EXPECT_THAT(second->delivered, SizeIs(2));
}

TEST_F(SchedulerCase, ARefusedRequestEndsAlone) {
  Form(1);
  const auto refused = Admit(10, 3), other = Admit(10, 3);
  Lose(1, 0, LossCause::kRefused);
  ASSERT_TRUE(refused->end);
  EXPECT_THAT(refused->end->status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("why")));
  AnswerAll();
  EXPECT_OK(other->end.value().status);
  EXPECT_EQ(scheduler_->Load().blocks_held, 0);
}

// The last stage always says 5, so what a prompt of fives may say next is guessed rightly.
TEST_F(SchedulerCase, RightGuessesBecomeSeveralTokensOfOneStep) {
  options_.draft_tokens = 4;
  Form(1);
  const auto sink = Admit(10, 21, /*id=*/5);
  AnswerAll();
  ASSERT_TRUE(sink->end);
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(sink->delivered, std::vector<int32_t>(21, 5));
  int32_t steps = 0;
  for (const StepPlan& plan : channel_.plans) steps += plan.sequences.empty() ? 0 : 1;
  EXPECT_EQ(steps, 1 + 20 / 5) << "each step says a token and confirms four guesses";
}

// The stage says fives, and later what nobody can guess; a row more costs little.
TEST_F(SchedulerCase, GuessesBeginWhereTheyPayAndEndWhereTheyDoNot) {
  options_.draft_tokens = 4;
  options_.adapt_drafts = true;
  options_.context = 1000;
  Form(1);
  constexpr int32_t kTokens = 400, kFives = 150;
  const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(1);
  std::vector<int32_t> said(kFives, 5);
  while (said.size() < kTokens) said.push_back(static_cast<int32_t>(entropy->Next() % kVocab));
  const auto sink = Admit(10, kTokens, /*id=*/5);
  int32_t guessed_early = 0, guessed_late = 0;
  for (int i = 0; i < 10000 && Waiting(0); ++i) {
    StepResult result = Answer(0, true);
    result.run_us = 5000 + 50 * Next(0).tokens();
    clock_.Advance(absl::Microseconds(result.run_us));
    for (SampledToken& t : result.sampled) t.token = said[t.index];
    for (const PlanSequence& s : Next(0).sequences) {
      if (s.sample_index > 40 && s.sample_index < kFives) guessed_early += s.drafts;
      if (s.sample_index > kFives + 60) guessed_late += s.drafts;
    }
    Take(std::move(result));
  }
  ASSERT_TRUE(sink->end);
  EXPECT_EQ(sink->delivered, said);
  EXPECT_GT(guessed_early, 60);
  EXPECT_LT(guessed_late, 8);
  EXPECT_GT(metrics_.Total("interlace_draft_tokens_accepted_total"), 60);
}

// One request brings the replica down whenever it runs. It ends; the others only wait.
TEST_F(SchedulerCase, ARequestThatBringsTheReplicaDownIsFoundOut) {
  Form(1);
  std::vector<std::shared_ptr<WatchedSink>> sinks;
  for (int i = 0; i < 4; ++i) sinks.push_back(Admit(10, 6));
  int losses = 0;
  for (int i = 0; i < 1000 && !scheduler_->idle(); ++i) {
    ASSERT_TRUE(Waiting(0)) << "stuck";
    const bool poisoned = std::any_of(Next(0).sequences.begin(), Next(0).sequences.end(),
                                      [](const PlanSequence& s) { return s.request == RequestId{3}; });
    if (!poisoned) {
      Take(Answer(0, true));
      continue;
    }
    ++losses;
    scheduler_->OnLost(absl::UnavailableError("a rank died"));
    ++incarnation_;
    Form(1);
  }
  EXPECT_EQ(losses, 3);
  ASSERT_TRUE(sinks[2]->end);
  EXPECT_THAT(sinks[2]->end->status, StatusIs(absl::StatusCode::kAborted, HasSubstr("r3")));
  for (int i : {0, 1, 3}) {
    ASSERT_TRUE(sinks[i]->end) << i;
    EXPECT_OK(sinks[i]->end->status) << i;
    EXPECT_THAT(sinks[i]->delivered, SizeIs(6));
  }
  EXPECT_EQ(metrics_.Total("interlace_requests_quarantined_total"), 1);
}

// The same processes come back: nobody died, so no request is to blame. They were silent while a machine slept or had
// too much to do, which may last for any number of losses.
TEST_F(SchedulerCase, RanksThatWereOnlySilentBlameNobody) {
  Form(1);
  std::vector<std::shared_ptr<WatchedSink>> sinks;
  for (int i = 0; i < 4; ++i) sinks.push_back(Admit(10, 6));
  for (int loss = 0; loss < 8; ++loss) {
    ASSERT_TRUE(Waiting(0));
    scheduler_->OnLost(absl::UnavailableError("the rank was silent for 2s"));
    Form(1);
    EXPECT_THAT(Next(0).sequences, SizeIs(4)) << "nobody is a suspect who must run alone";
  }
  AnswerAll();
  for (const auto& sink : sinks) {
    ASSERT_TRUE(sink->end);
    EXPECT_OK(sink->end->status);
  }
  EXPECT_EQ(metrics_.Total("interlace_requests_quarantined_total"), 0);
}

// Ranks that hang at a plan, or that fail at it, live on; who was in that plan is to blame all the same.
TEST_F(SchedulerCase, AHangIsNoSilence) {
  for (const bool hangs : {true, false}) {
    SCOPED_TRACE(hangs ? "hangs" : "fails");
    scheduler_.reset();
    channel_.plans.clear();
    Form(1);
    const auto sink = Admit(10, 6);
    for (int loss = 0; loss < options_.max_losses; ++loss) {
      ASSERT_FALSE(sink->end);
      ASSERT_TRUE(Waiting(0));
      if (hangs) {
        clock_.Advance(absl::Seconds(61));
        Run();
      } else {
        StepResult result = Answer(0, true);
        result.status = absl::InternalError("the backend gave up");
        scheduler_->OnResult(result);
      }
      Form(1);
    }
    ASSERT_TRUE(sink->end);
    EXPECT_EQ(sink->end->status.code(), absl::StatusCode::kAborted) << sink->end->status;
  }
}

TEST_F(SchedulerCase, ACancelledRequestEndsAtOnceAndIsReleasedByTheNextPlan) {
  Form(1);
  const auto sink = Admit(20, 5);
  scheduler_->Cancel(RequestId{1}, absl::CancelledError("gone"));
  scheduler_->Cancel(RequestId{77}, absl::CancelledError("unknown ids are ignored"));
  Run();
  ASSERT_TRUE(sink->end);
  EXPECT_THAT(sink->end->status, StatusIs(absl::StatusCode::kCancelled, HasSubstr("gone")));
  EXPECT_EQ(scheduler_->Load().blocks_held, 0);
  Take(Answer(0, true));
  ASSERT_THAT(channel_.plans.back().releases, SizeIs(1));
  EXPECT_EQ(channel_.plans.back().releases[0].request, RequestId{1});
  EXPECT_THAT(channel_.plans.back().sequences, SizeIs(0));
  EXPECT_THAT(sink->delivered, SizeIs(0));
}

TEST_F(SchedulerCase, AStoppedRequestEndsWellWithWhatItHas) {
  Form(1);
  const auto sink = Admit(20, 5), waiting = Admit(1, 5);
  Take(Answer(0, true));
  scheduler_->Stop(RequestId{1});
  scheduler_->Stop(RequestId{77});
  Run();
  ASSERT_TRUE(sink->end);
  EXPECT_OK(sink->end->status);
  EXPECT_EQ(sink->end->reason, FinishReason::kStop);
  EXPECT_EQ(sink->end->completion_tokens, 1);
  EXPECT_EQ(sink->delivered, std::vector<int32_t>{5});
  EXPECT_EQ(scheduler_->Explain("r1")->state, "finished");
  EXPECT_EQ(metrics_.Total("interlace_requests_failed_total"), 0);
  EXPECT_EQ(metrics_.Total("vllm:request_success_total"), 1);
  AnswerAll();
  EXPECT_OK(waiting->end->status);
}

// A sink that keeps the scores.
class ScoredSink final : public TokenSink {
 public:
  void OnTokens(absl::Span<const int32_t>) override { ADD_FAILURE() << "a token without its scores"; }
  void OnScoredToken(int32_t token, absl::Span<const TokenScore> scores) override {
    tokens.push_back(token);
    all.emplace_back(scores.begin(), scores.end());
  }
  void OnEnd(const RequestEnd& end) override { EXPECT_OK(end.status); }
  std::vector<int32_t> tokens;
  std::vector<std::vector<TokenScore>> all;
};

TEST_F(SchedulerCase, SamplingTravelsWithTheOpeningAndScoresComeBackWithTokens) {
  options_.chunk_tokens = 8;
  Form(1);
  auto sink = std::make_shared<ScoredSink>();
  Request request{.id = RequestId{1}, .name = "r1"};
  request.prompt.assign(20, 1);
  request.max_tokens = 2;
  request.sampling = {.temperature = 0.5f, .logprobs = 1, .bad_words = {{1, 2}}};
  request.arrival = clock_.Now();
  request.deadline = absl::InfiniteFuture();
  request.sink = sink;
  const Sampling sampling = request.sampling;
  scheduler_->Admit(std::move(request));
  Run();
  for (int32_t k = 0; !scheduler_->idle(); ++k) {
    const PlanSequence& planned = Next(0).sequences.at(0);
    EXPECT_EQ(planned.opening.has_value(), k == 0);
    if (planned.opening.has_value()) {
      EXPECT_EQ(planned.opening->sampling, sampling);
    }
    StepResult result = Answer(0, true);
    for (SampledToken& s : result.sampled) s.scores = {{5, -static_cast<float>(k)}, {6, -1}};
    Take(result);
  }
  EXPECT_EQ(sink->tokens, (std::vector<int32_t>{5, 5}));
  EXPECT_EQ(sink->all, (std::vector<std::vector<TokenScore>>{{{5, -2}, {6, -1}}, {{5, -3}, {6, -1}}}));
}

TEST_F(SchedulerCase, DeadlinesEndAtOnceAndDyingEndsWhatIsLeft) {
  options_.max_running = 2;
  Form(1);
  deadline_ = absl::Seconds(5);
  const auto late = Admit(10, 5);
  deadline_ = absl::InfiniteDuration();
  const auto running = Admit(10, 5), waiting = Admit(10, 5);
  clock_.Advance(absl::Seconds(6));
  Run();
  ASSERT_TRUE(late->end);
  EXPECT_EQ(late->end->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(running->end || waiting->end);
  scheduler_.reset();
  EXPECT_EQ(running->end->status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(waiting->end->status.code(), absl::StatusCode::kCancelled);
}

TEST_F(SchedulerCase, ASilentStageIsNamedAndItsRequestsWaitForANewReplica) {
  Form(2);
  const auto sink = Admit(10, 2);
  Take(Answer(0, false));
  EXPECT_EQ(scheduler_->NextWakeUp(), clock_.Now() + options_.rank_timeout);
  clock_.Advance(options_.rank_timeout);
  Run();
  ASSERT_THAT(channel_.resets, SizeIs(1));
  EXPECT_THAT(channel_.resets[0],
              StatusIs(absl::StatusCode::kUnavailable, AllOf(HasSubstr("stage 1"), HasSubstr("cluster.rank_timeout"))));
  EXPECT_EQ(scheduler_->Load().ranks_ready, 0);
  EXPECT_EQ(scheduler_->NextWakeUp(), clock_.Now() + options_.reform_timeout);
  clock_.Advance(options_.reform_timeout);
  Run();
  ASSERT_TRUE(sink->end);
  EXPECT_THAT(sink->end->status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("stage 1")));
}

TEST_F(SchedulerCase, AFailedRankResetsTheReplicaWhateverItAnswered) {
  for (const bool of_no_plan : {false, true}) {
    Form(1);
    const auto sink = Admit(10, 2);
    StepResult result = Answer(0, true);
    if (of_no_plan) result.plan = PlanId{};
    result.status = absl::InternalError("the arena burns");
    const size_t resets = channel_.resets.size();
    Take(result);
    ASSERT_THAT(channel_.resets, SizeIs(resets + 1));
    EXPECT_THAT(std::string(channel_.resets.back().message()), HasSubstr("the arena burns"));
    Form(1);  // and the request runs on
    AnswerAll();
    EXPECT_OK(sink->end->status);
    EXPECT_EQ(sink->delivered, (std::vector<int32_t>{5, 5}));
  }
}

TEST_F(SchedulerCase, TheLatestGivesWayWhenRoomRunsOut) {
  Form(1, /*slots=*/10);  // 5 blocks with both layers kept
  const auto first = Admit(15, 17), second = Admit(15, 17);
  AnswerAll();
  EXPECT_OK(first->end->status);
  EXPECT_OK(second->end->status);
  EXPECT_THAT(first->delivered, SizeIs(17));
  EXPECT_THAT(second->delivered, SizeIs(17));
  EXPECT_EQ(scheduler_->Explain("r1")->preemptions, 0);
  EXPECT_GT(scheduler_->Explain("r2")->preemptions, 0);
  EXPECT_THAT(scheduler_->Explain("r2")->Texts(), Contains(HasSubstr("parked")));
  EXPECT_LE(first->end->timing.total, second->end->timing.total);
}

TEST_F(SchedulerCase, WhatASmallerReplicaCannotHoldEndsAndTheRestRuns) {
  Form(1, 100);
  const auto large = Admit(200, 2), small = Admit(10, 2);
  Form(1, 4);
  EXPECT_THAT(large->end.value().status, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("can never run")));
  AnswerAll();
  EXPECT_OK(small->end->status);
}

TEST_F(SchedulerCase, NobodyNewStartsWhileOneThatRunsFindsNoRoom) {
  options_.fixed_keep = 2;
  Form(1, /*slots=*/12);  // 6 blocks
  const auto first = Admit(24, 20), second = Admit(16, 8), third = Admit(1, 8);
  for (int i = 0; i < 200 && !scheduler_->idle(); ++i) {
    Take(Answer(0, true));
    EXPECT_TRUE(!third->end || second->end) << "overtaken";
  }
  EXPECT_OK(first->end.value().status);
  EXPECT_OK(second->end.value().status);
  EXPECT_OK(third->end.value().status);
}

TEST_F(SchedulerCase, StreamsThatDecodeAreSpreadOverThePlansInFlight) {
  Form(2);
  std::vector<std::shared_ptr<WatchedSink>> sinks;
  for (int i = 0; i < 4; ++i) sinks.push_back(Admit(1, 50));
  for (int round = 0; round < 60; ++round) {
    Take(Answer(0, false));
    Take(Answer(1, true));
  }
  // Four streams over three plans in flight.
  for (size_t back = 1; back <= 6; ++back) {
    const size_t streams = channel_.plans[channel_.plans.size() - back].sequences.size();
    EXPECT_TRUE(streams == 1 || streams == 2) << streams;
  }
}

TEST_F(SchedulerCase, ExplainsWhatRunsAndTheLast256ThatEnded) {
  Form(1);
  for (int i = 0; i < 258; ++i) {
    Admit(1, 1);
    AnswerAll();
  }
  Admit(9, 3);
  EXPECT_THAT(scheduler_->Explain("r1"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("'r1'")));
  EXPECT_THAT(scheduler_->Explain("r2"), StatusIs(absl::StatusCode::kNotFound, HasSubstr("256")));
  const Explanation ended = scheduler_->Explain("r3").value(), running = scheduler_->Explain("r259").value();
  EXPECT_EQ(ended.state, "finished");
  EXPECT_EQ(ended.end.completion_tokens, 1);
  EXPECT_EQ(running.state, "running");
  EXPECT_EQ(running.end.prompt_tokens, 9);
  EXPECT_EQ(running.keep_layers, 2);
}

}  // namespace
}  // namespace interlace
