// What the scheduler asks of a rank's draft model: guesses where they pay, after what it must read first, and nothing
// where there is none; and that nothing of it changes a token.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "common/log.h"
#include "coordinator/scheduler.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr int32_t kLayers = 4, kBlockTokens = 8, kStepUs = 5000, kRowUs = 20;

// A rank that answers plans at once, in their order. Its draft model's guesses are right as often as `rate_` says, and
// a pass of it takes `pass_` steps; a row that it reads, as much of a row.
class SchedulerModel : public testing::Test, public PlanChannel {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    options_.context = 4000;
    options_.chunk_tokens = 256;
    options_.draft_tokens = 4;
    options_.speculate = Speculate::kModel;
    options_.adapt_drafts = true;
  }
  void TearDown() override {
    scheduler_.reset();
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  void Send(const StepPlan& plan) override { plans_.push_back(plan), waiting_.push_back(plan); }
  void Reset(const absl::Status& why) override { ADD_FAILURE() << why; }

  void Form(double share) {
    scheduler_ = std::make_unique<Scheduler>(options_, **FindPolicy("stream"), clock_, metrics_, *this);
    std::vector<RankInfo> ranks = MakeRanks(kLayers, 1, kBlockTokens, 20000, 0);
    if (share > 0) ranks[0].draft_model = "small", ranks[0].draft_share = share;
    scheduler_->OnFormed(Epoch{1}, ranks);
    // The cost model must know steps before anybody guesses.
    for (const int32_t length : {1, 30, 90, 200}) Run(length, 3);
    plans_.clear();
    guessed_before_ = metrics_.Total("interlace_draft_tokens_total");
  }
  // Guesses that were made since, as the metric has it.
  double Guessed() { return metrics_.Total("interlace_draft_tokens_total") - guessed_before_; }
  struct Stream {
    std::shared_ptr<WatchedSink> sink;
    std::vector<int32_t> want;
    std::string name;
  };
  Stream Admit(int32_t length, int32_t max_tokens) {
    Stream stream{std::make_shared<WatchedSink>(), {}, absl::StrCat("r", ++requests_)};
    std::vector<int32_t> tokens(length);
    for (int32_t& token : tokens) token = Draw(*entropy_, 0, kVocab - 1);
    Request request{.id = RequestId{requests_}, .name = stream.name};
    request.prompt = tokens;
    for (int32_t t = 0; t < max_tokens; ++t) {
      stream.want.push_back(NextToken(tokens));
      tokens.push_back(stream.want.back());
    }
    prompts_[request.id] = length;
    streams_[request.id] = std::move(tokens);
    request.max_tokens = max_tokens;
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.sink = stream.sink;
    scheduler_->Admit(std::move(request));
    return stream;
  }
  void Finish() {
    for (int i = 0; i < 100000 && !scheduler_->idle(); ++i) {
      scheduler_->RunOnce();
      if (i % 16 == 0) scheduler_->CheckInvariants();
      if (waiting_.empty()) continue;
      StepResult result = Answer(waiting_.front());
      waiting_.pop_front();
      clock_.Advance(absl::Microseconds(result.run_us));
      scheduler_->OnResult(std::move(result));
    }
    ASSERT_TRUE(scheduler_->idle());
  }
  static void ExpectRight(const Stream& stream) {
    ASSERT_TRUE(stream.sink->end);
    EXPECT_OK(stream.sink->end->status);
    EXPECT_EQ(stream.sink->delivered, stream.want) << stream.name;
  }
  Stream Run(int32_t length, int32_t max_tokens) {
    Stream stream = Admit(length, max_tokens);
    Finish();
    ExpectRight(stream);
    return stream;
  }

  struct Counts {
    int32_t steps = 0, reads = 0, guessed = 0, own = 0;  // plans of all streams, and of them; guesses
  };
  Counts Count() const {
    Counts counts;
    for (const StepPlan& plan : plans_) {
      for (const PlanSequence& s : plan.sequences) {
        ++counts.steps;
        if (s.model_drafts && s.drafts == 0) ++counts.reads;
        if (s.model_drafts) counts.guessed += s.drafts;
        if (s.own_drafts) counts.own += s.drafts;
      }
    }
    return counts;
  }
  std::string Story(const Stream& stream) const {
    std::string all;
    for (const std::string& text : scheduler_->Explain(stream.name)->Texts()) absl::StrAppend(&all, text, "\n");
    return all;
  }

  StepResult Answer(const StepPlan& plan) {
    StepResult result{.epoch = plan.epoch, .plan = plan.id};
    int32_t passes = 0, rows = kDraftRows;
    for (const PlanSequence& s : plan.sequences) {
      int32_t right = 0;
      if (s.own_drafts) passes = std::max(passes, s.drafts);
      if (s.model_drafts) {
        int32_t& seen = seen_[s.request];
        seen = std::min(seen, s.start);
        const int32_t missing = s.start + 1 - seen, reads = room_ ? std::min(missing, rows) : 0;
        rows -= reads;
        seen += reads;
        const int32_t made = reads == missing ? s.drafts : 0;
        while (right < made && static_cast<double>(entropy_->Next() >> 11) * 0x1p-53 < rate_) ++right;
        if (made == 0) result.drafted.push_back({s.request, s.attempt, 0, seen, room_});
        seen = std::min(s.start + std::max(1, made), s.start + 1 + right);
        if (made == 0) seen = result.drafted.back().seen;
        passes = std::max(passes, made);
      }
      for (int32_t k = 0; s.sample && k <= right; ++k) {
        const size_t at = static_cast<size_t>(prompts_.at(s.request) + s.sample_index + k);
        result.sampled.push_back({s.request, s.attempt, s.sample_index + k, streams_.at(s.request).at(at), {}});
      }
    }
    result.draft_us = static_cast<int64_t>(passes * pass_ * kStepUs + (kDraftRows - rows) * pass_ * kRowUs);
    result.run_us = kStepUs + kRowUs * plan.tokens() + result.draft_us;
    return result;
  }

  ManualClock clock_;
  Metrics metrics_{"test"};
  Scheduler::Options options_;
  std::unique_ptr<Entropy> entropy_ = MakeSeededEntropy(7);
  double rate_ = 0.9, pass_ = 0.1;
  bool room_ = true;
  double guessed_before_ = 0;
  std::vector<StepPlan> plans_;
  std::deque<StepPlan> waiting_;
  std::map<RequestId, std::vector<int32_t>> streams_;
  std::map<RequestId, int32_t> prompts_, seen_;
  uint64_t requests_ = 0;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(SchedulerModel, GuessesWhereThatPays) {
  Form(0.1);
  const Stream stream = Run(40, 300);
  const Counts counts = Count();
  EXPECT_LT(counts.steps, 130) << "a step gives 3 to 4 tokens";
  EXPECT_EQ(counts.reads, 0) << "it reads a short prompt in the step that guesses";
  EXPECT_GT(metrics_.Total("interlace_draft_tokens_accepted_total"), 180);
  EXPECT_THAT(metrics_.Text(), HasSubstr("drafter=\"draft-model\""));
  EXPECT_THAT(Story(stream), HasSubstr("drafted by the draft model"));
}

TEST_F(SchedulerModel, EndsWhereItIsHardlyEverRight) {
  Form(0.1);
  rate_ = 0.05;
  Run(40, 600);
  EXPECT_GT(Count().guessed, 0) << "it is worth a try";
  EXPECT_LT(Count().guessed, 60);
}

TEST_F(SchedulerModel, EndsWhereItsPassesTakeTooLong) {
  Form(0.1);  // so much it should take, by its size
  pass_ = 1.5;
  Run(40, 600);
  EXPECT_GT(Count().guessed, 0);
  EXPECT_LT(Count().guessed, 100);
}

TEST_F(SchedulerModel, AModelAsLargeAsTheModelIsNotTried) {
  Form(1);
  pass_ = 1;
  Run(40, 300);
  EXPECT_EQ(Count().guessed, 0);
}

// What is too long for one step is read in several, without rows that would verify nothing.
TEST_F(SchedulerModel, ALongPromptIsReadBeforeItGuesses) {
  Form(0.1);
  Run(3 * kDraftRows - 10, 400);
  const Counts counts = Count();
  EXPECT_EQ(counts.reads, 2);
  EXPECT_GT(counts.guessed, 200);
  EXPECT_LT(counts.steps, 200);
}

// Streams share what may be read in a step.
TEST_F(SchedulerModel, SeveralStreamsReadByTurns) {
  Form(0.1);
  std::vector<Stream> streams;
  for (int i = 0; i < 5; ++i) streams.push_back(Admit(200, 200));
  Finish();
  for (const Stream& stream : streams) ExpectRight(stream);
  EXPECT_GT(Count().reads, 0);
  EXPECT_GT(Count().guessed, 500);
  double made = 0;
  for (const StepPlan& plan : plans_) {
    for (const PlanSequence& s : plan.sequences) made += s.model_drafts ? s.drafts : 0;
  }
  EXPECT_EQ(Guessed(), made) << "a guess was asked for that nobody could make";
}

// A stream that finds no room asks again after some tokens, and its rate is none the worse.
TEST_F(SchedulerModel, WithoutRoomItWaits) {
  Form(0.1);
  room_ = false;
  Run(40, 300);
  int32_t asked = 0;
  for (const StepPlan& plan : plans_) {
    for (const PlanSequence& s : plan.sequences) asked += s.model_drafts ? 1 : 0;
  }
  EXPECT_GE(asked, 2);
  EXPECT_LE(asked, 5);
  EXPECT_EQ(Guessed(), 0);
  room_ = true;
  plans_.clear();
  Run(40, 300);
  EXPECT_LT(Count().steps, 130);
  const auto guesses = [](const StepPlan& plan) { return plan.sequences.at(0).drafts > 0; };
  const auto first = std::find_if(plans_.begin(), plans_.end(), guesses);
  ASSERT_NE(first, plans_.end());
  EXPECT_EQ(first->sequences[0].drafts, options_.draft_tokens) << "guesses that nobody made count as wrong";
}

TEST_F(SchedulerModel, AutoTakesItIntoAccount) {
  options_.speculate = Speculate::kAuto;
  Form(0.1);
  Run(40, 300);
  EXPECT_GT(Count().guessed, 100);
}

TEST_F(SchedulerModel, NobodyIsAskedWhereThereIsNone) {
  for (const Speculate speculate : {Speculate::kAuto, Speculate::kModel, Speculate::kSelf}) {
    options_.speculate = speculate;
    Form(speculate == Speculate::kSelf ? 0.1 : 0);
    Run(40, 200);
    const Counts counts = Count();
    EXPECT_EQ(counts.guessed + counts.reads, 0);
  }
}

}  // namespace
}  // namespace interlace
