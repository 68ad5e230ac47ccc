// What the scheduler does with a skip advisor: which keys it asks for, which plans streams draft by, what it tells; and
// that nothing of it changes a token.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/entropy.h"
#include "common/log.h"
#include "coordinator/scheduler.h"
#include "coordinator/skip_index/plan_loss.h"
#include "coordinator/skip_index/skip_advisor.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kLayers = 8, kBlockTokens = 8, kKeyLayer = 2, kStepUs = 5000;
constexpr int32_t kWidth = 8;  // of keys: KeyOf

SkipPlan AllInner() { return {LayerSet::Range(1, kLayers - 1), LayerSet::Range(1, kLayers - 1)}; }
SkipPlan Half() { return {LayerSet::Range(1, 4), LayerSet::Range(1, 4)}; }
SkipScope Scope(const std::string& tenant = "", const std::string& adapter = "") {
  return ScopeOf({"digest", "test", kKeyLayer, adapter, "", tenant, ""});
}

// A rank that holds the whole model. It answers plans at once, in their order; a plan's guesses are right as often as
// `rate` says.
class SchedulerSkip : public testing::Test, public PlanChannel {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    options_.context = 4000;
    options_.chunk_tokens = 32;
    options_.draft_tokens = 4;
    options_.speculate = Speculate::kSelf;
    options_.adapt_drafts = true;
    options_.skip_layer = kKeyLayer;
  }
  void TearDown() override {
    scheduler_.reset();
    SetLogSink(nullptr, LogLevel::kInfo);
  }
  void Send(const StepPlan& plan) override { plans_.push_back(plan), waiting_.push_back(plan); }
  void Reset(const absl::Status& why) override { ADD_FAILURE() << why; }

  void MakeAdvisor(double explore = 0) {
    advisor_ = std::make_unique<SkipAdvisor>(
        SkipAdvisor::Options{.model_digest = "digest", .layers = kLayers, .explore = explore}, MakeSeededEntropy(3));
    options_.skip_advisor = advisor_.get();
  }
  void Form(int32_t stages = 1, int32_t slots = 4000) {
    scheduler_ = std::make_unique<Scheduler>(options_, **FindPolicy("stream"), clock_, metrics_, *this);
    scheduler_->OnFormed(Epoch{1}, MakeRanks(kLayers, stages, kBlockTokens, slots, 0));
  }
  // All its tokens are of one class, so that all prompts of a class have the same key. No two are equal.
  std::vector<int32_t> Prompt(int32_t length, int32_t of_class) {
    std::vector<int32_t> prompt(length);
    for (int32_t& token : prompt) token = of_class + 8 * Draw(*entropy_, 0, (kVocab - 1 - of_class) / 8);
    return prompt;
  }
  struct Stream {
    std::shared_ptr<WatchedSink> sink;
    std::vector<int32_t> prompt, want;
    std::string name;
  };
  Stream Admit(const std::vector<int32_t>& prompt, int32_t max_tokens, const std::string& tenant = "") {
    Stream stream{std::make_shared<WatchedSink>(), prompt, {}, absl::StrCat("r", ++requests_)};
    std::vector<int32_t> tokens = prompt;
    for (int32_t t = 0; t < max_tokens; ++t) {
      stream.want.push_back(NextToken(tokens));
      tokens.push_back(stream.want.back());
    }
    streams_[RequestId{requests_}] = tokens;
    prompts_[RequestId{requests_}] = static_cast<int32_t>(prompt.size());
    Request request{.id = RequestId{requests_}, .name = stream.name};
    request.prompt = prompt;
    request.max_tokens = max_tokens;
    request.targets.tenant = tenant;
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.sink = stream.sink;
    scheduler_->Admit(std::move(request));
    return stream;
  }
  // Until nothing is left.
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
  // Alone, to its end.
  Stream Run(const std::vector<int32_t>& prompt, int32_t max_tokens, const std::string& tenant = "") {
    Stream stream = Admit(prompt, max_tokens, tenant);
    Finish();
    ExpectRight(stream);
    return stream;
  }
  static void ExpectRight(const Stream& stream) {
    ASSERT_TRUE(stream.sink->end);
    EXPECT_OK(stream.sink->end->status);
    EXPECT_EQ(stream.sink->delivered, stream.want) << stream.name;
  }
  std::string Story(const Stream& stream) const {
    std::string all;
    for (const std::string& text : scheduler_->Explain(stream.name)->Texts()) absl::StrAppend(&all, text, "\n");
    return all;
  }
  // The cost model must know steps before anybody guesses.
  void WarmUp() {
    for (int i = 0; i < 3; ++i) Run(Prompt(40, 0), 40);
    plans_.clear();
  }
  std::map<RequestId, std::vector<PlanSequence>> Asked() const {
    std::map<RequestId, std::vector<PlanSequence>> asked;
    for (const StepPlan& plan : plans_) {
      for (const PlanSequence& s : plan.sequences) {
        if (s.key) asked[s.request].push_back(s);
      }
    }
    return asked;
  }
  std::vector<SkipPlan> Drafted() const {
    std::vector<SkipPlan> all;
    for (const StepPlan& plan : plans_) {
      for (const PlanSequence& s : plan.sequences) {
        if (s.own_drafts) all.push_back(*s.own_drafts);
      }
    }
    return all;
  }
  double Advised(const std::string& source) const {
    const std::string text = metrics_.Text(), name = "interlace_skip_advice_total{";
    for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
      const std::string line = text.substr(at, text.find('\n', at) - at);
      if (line.find(absl::StrCat("source=\"", source, "\"")) == std::string::npos) continue;
      return std::stod(line.substr(line.rfind(' ')));
    }
    return 0;
  }

  // What an advisor has learned elsewhere: `entry` suits prompts of class 3, as far as 32 uses say, `best` all.
  void Teach(const SkipPlan& best, double best_rate, std::optional<SkipPlan> entry, double entry_rate) {
    SkipRecords records;
    records.whole = true;
    records.scopes.push_back(
        {Scope(), 64, std::vector<float>(kWidth, 8.0F), std::pair(best, Acceptance(400, 400 * best_rate))});
    if (entry) {
      SkipEntryRecord& record = records.entries.emplace_back();
      record.entry = {.id = 1, .scope = Scope(), .plan = *entry, .acceptance = Acceptance(400, 400 * entry_rate)};
      for (int i = 0; i < 32; ++i) record.entry.threshold.Note({i % 2 == 0 ? 1.0F : 0.05F, i % 2 == 0});
      record.key.assign(kWidth, 0);
      record.key[3] = 1;
    }
    ASSERT_OK(advisor_->Import(EncodeSkips(records, {"digest", kLayers, kWidth})));
  }

  StepResult Answer(const StepPlan& plan) {
    StepResult result{.epoch = plan.epoch, .plan = plan.id};
    double passes = 0;
    for (const PlanSequence& s : plan.sequences) {
      const std::vector<int32_t>& tokens = streams_.at(s.request);
      const int32_t end = s.start + static_cast<int32_t>(s.tokens.size());
      if (s.key && s.key->give && gives_keys_) {
        result.keys.push_back({s.request, s.attempt, KeyOf(absl::MakeConstSpan(tokens).first(end), s.key->first)});
      }
      int32_t right = 0;
      if (s.own_drafts) {
        const double rate = rate_(*s.own_drafts);
        while (right < s.drafts && static_cast<double>(entropy_->Next() >> 11) * 0x1p-53 < rate) ++right;
        passes = std::max(passes, s.drafts * PassShare({.layers = kLayers}, *s.own_drafts));
      }
      for (int32_t k = 0; s.sample && k <= right; ++k) {
        const size_t at = static_cast<size_t>(prompts_.at(s.request) + s.sample_index + k);
        result.sampled.push_back({s.request, s.attempt, s.sample_index + k, tokens.at(at), {}});
      }
    }
    result.draft_us = static_cast<int64_t>(passes * kStepUs);
    result.run_us = kStepUs + 20 * plan.tokens() + result.draft_us;
    return result;
  }

  ManualClock clock_;
  Metrics metrics_{"test"};
  Scheduler::Options options_;
  std::unique_ptr<SkipAdvisor> advisor_;
  std::unique_ptr<Entropy> entropy_ = MakeSeededEntropy(7);
  std::function<double(const SkipPlan&)> rate_ = [](const SkipPlan&) { return 0.9; };
  bool gives_keys_ = true;
  std::vector<StepPlan> plans_;
  std::deque<StepPlan> waiting_;
  std::map<RequestId, std::vector<int32_t>> streams_;
  std::map<RequestId, int32_t> prompts_;
  uint64_t requests_ = 0;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(SchedulerSkip, KeysAreOfTheLastPositionsThatAreComputed) {
  MakeAdvisor();
  Form();
  for (const int32_t length : {1, 7, 8, 40, 64, 100, 333}) {
    plans_.clear();
    Run(Prompt(length, 1), 2);
    const auto asked = Asked();
    ASSERT_EQ(asked.size(), length < 8 ? 0u : 1u) << length;
    if (asked.empty()) continue;
    const std::vector<PlanSequence>& asks = asked.begin()->second;
    int32_t to = -1;
    for (const PlanSequence& s : asks) {
      EXPECT_EQ(s.key->first, std::max(0, length - 64));
      EXPECT_EQ(s.key->layer, LayerId{kKeyLayer});
      EXPECT_EQ(s.key->give, &s == &asks.back());
      EXPECT_TRUE(to < 0 ? s.start <= s.key->first : s.start == to) << "a position is missing";
      to = s.start + static_cast<int32_t>(s.tokens.size());
    }
    EXPECT_EQ(to, length);
  }
}

TEST_F(SchedulerSkip, WhatWasAdoptedIsInNoKey) {
  MakeAdvisor();
  Form();
  const std::vector<int32_t> prompt = Prompt(100, 1);
  Run(prompt, 2);
  plans_.clear();
  std::vector<int32_t> longer = prompt;  // 12 blocks of it are there
  longer.insert(longer.end(), 20, 9);
  Run(longer, 2);
  ASSERT_EQ(Asked().size(), 1u);
  EXPECT_EQ(Asked().begin()->second[0].key->first, 96) << "of the last 64 positions 24 are computed";
  plans_.clear();
  Run(prompt, 2);
  EXPECT_TRUE(Asked().empty()) << "4 positions are computed: too few for a key";
}

TEST_F(SchedulerSkip, NobodyAsksForAKeyThatIsOfNoUse) {
  Form();
  Run(Prompt(100, 1), 2);
  EXPECT_TRUE(Asked().empty()) << "there is no advisor";
  MakeAdvisor();
  Form(/*stages=*/2);
  Admit(Prompt(100, 1), 2);
  scheduler_->RunOnce();
  EXPECT_TRUE(Asked().empty()) << "no rank holds the whole model";
  waiting_.clear();
  options_.speculate = Speculate::kNgram;
  Form();
  Run(Prompt(100, 1), 2);
  EXPECT_TRUE(Asked().empty()) << "no rank guesses";
}

TEST_F(SchedulerSkip, StreamsDraftByThePlanOfTheirScope) {
  MakeAdvisor();
  Teach(AllInner(), 0.9, std::nullopt, 0);
  Form();
  WarmUp();
  const Stream stream = Run(Prompt(50, 1), 80);
  ASSERT_FALSE(Drafted().empty());
  for (const SkipPlan& plan : Drafted()) EXPECT_EQ(plan, AllInner());
  EXPECT_THAT(Story(stream), HasSubstr("drafted by the plan that serves all prompts best, "));
  EXPECT_EQ(Advised("static"), 4) << "three warmed up";
  plans_.clear();
  Run(Prompt(50, 1), 80, "other");
  for (const SkipPlan& plan : Drafted()) EXPECT_NE(plan, AllInner()) << "another tenant's";
}

TEST_F(SchedulerSkip, PromptsLikeAnEntrysGetItsPlan) {
  MakeAdvisor();
  Teach(Half(), 0.6, AllInner(), 0.95);
  Form();
  WarmUp();
  const Stream like = Run(Prompt(50, 3), 60);
  ASSERT_FALSE(Drafted().empty());
  for (const SkipPlan& plan : Drafted()) EXPECT_EQ(plan, AllInner());
  EXPECT_THAT(Story(like), HasSubstr("drafted by the plan of an entry (likeness 1.00), "));
  EXPECT_EQ(Advised("entry"), 1);
  plans_.clear();
  Run(Prompt(50, 5), 60);
  for (const SkipPlan& plan : Drafted()) EXPECT_EQ(plan, Half());
  EXPECT_EQ(Advised("entry"), 1);
  gives_keys_ = false;
  Run(Prompt(50, 3), 60);
  EXPECT_EQ(Advised("entry"), 1) << "who has no key gets what serves all";
}

// An entry that promises much and is always wrong: its streams say what they should, and soon nobody gets its plan.
TEST_F(SchedulerSkip, APoisonedIndexCostsTimeAndNoToken) {
  MakeAdvisor();
  Teach(Half(), 0.6, AllInner(), 0.99);
  rate_ = [](const SkipPlan& plan) { return plan == AllInner() ? 0 : 0.6; };
  Form();
  WarmUp();
  constexpr int kStreams = 80, kLast = 10;
  for (int i = 0; i < kStreams - kLast; ++i) Run(Prompt(50, 3), 40);
  EXPECT_GE(Advised("entry"), 1);
  const double before = Advised("entry");
  for (int i = 0; i < kLast; ++i) Run(Prompt(50, 3), 40);
  EXPECT_EQ(Advised("entry"), before) << "it was found out";
}

// Without an advisor, with one that knows nothing, and with one that tries whatever it may, alone and together.
TEST_F(SchedulerSkip, TokensAreTheSameWhateverIsTried) {
  for (const double explore : {0.0, 0.02, 1.0}) {
    for (const bool adapt : {false, true}) {
      MakeAdvisor(explore);
      options_.adapt_drafts = adapt;
      rate_ = [this](const SkipPlan&) { return static_cast<double>(entropy_->Next() % 100) / 100; };
      Form();
      std::vector<Stream> streams;
      for (int i = 0; i < 60; ++i) {
        streams.push_back(Admit(Prompt(Draw(*entropy_, 1, 90), i % 8), Draw(*entropy_, 1, 60)));
        if (i % 7 == 0) Finish();
      }
      Finish();
      for (const Stream& stream : streams) ExpectRight(stream);
    }
  }
  EXPECT_GT(Advised("trial"), 0);
}

// Passing over attention ruins every guess, passing over feed-forward parts none: streams tell, and the plan for all
// comes to be one that passes attention of no layer over.
TEST_F(SchedulerSkip, WhatStreamsTellFindsAPlan) {
  MakeAdvisor(0.5);
  rate_ = [](const SkipPlan& plan) {
    return 0.97 * std::pow(0.5, plan.attention.size()) * std::pow(0.995, plan.feed_forward.size());
  };
  Form();
  WarmUp();
  for (int i = 0; i < 400; ++i) {
    Run(Prompt(20, i % 8), 120);
    plans_.clear();
  }
  EXPECT_GT(Advised("trial"), 20);
  int64_t drafted = 0, attention = 0;
  for (int i = 0; i < 40; ++i) Run(Prompt(20, i % 8), 60);
  for (const SkipPlan& plan : Drafted()) ++drafted, attention += plan.attention.size();
  ASSERT_GT(drafted, 100);
  EXPECT_LT(static_cast<double>(attention) / static_cast<double>(drafted), 0.5);
}

}  // namespace
}  // namespace interlace
