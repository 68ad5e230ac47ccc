// What the scheduler does with KV: prefixes computed once, room given and taken back, blocks from the tiers, drafts.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "coordinator/scheduler.h"
#include "tests/coordinator/fake_replica.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kBlockTokens = 8;

// A sink that keeps what was said of the cache, too.
struct Client final : TokenSink {
  void OnCached(int32_t tokens) override { cached = tokens; }
  void OnTokens(absl::Span<const int32_t> tokens) override { got.insert(got.end(), tokens.begin(), tokens.end()); }
  void OnPromptScores(const PromptScores& scores) override { scored += scores.size(); }
  void OnPooled(absl::Span<const float> mean) override { pooled = mean[0]; }
  void OnEnd(const RequestEnd& e) override { end = e; }
  int32_t scored = 0;
  float pooled = -1;
  std::vector<int32_t> prompt, got;
  int32_t max_tokens = 0;
  int32_t cached = -1;
  std::optional<RequestEnd> end;
};

class SchedulerKv : public testing::Test {
 protected:
  void SetUp() override {
    SetLogSink([](const LogEvent&) {}, LogLevel::kError);
    options_.context = 1000;
    options_.chunk_tokens = 32;
    replica_.fetch_percent = 100;
  }
  void TearDown() override {
    scheduler_.reset();
    SetLogSink(nullptr, LogLevel::kInfo);
  }

  void Form(const std::vector<RankInfo>& ranks) {
    if (scheduler_ == nullptr) {
      scheduler_ = std::make_unique<Scheduler>(options_, **FindPolicy("stream"), clock_, metrics_, replica_);
    }
    replica_.Start(Epoch{++epoch_}, ranks);
    scheduler_->OnFormed(Epoch{epoch_}, ranks);
  }
  // Tokens that follow from `seed`.
  static std::vector<int32_t> Text(int32_t length, uint64_t seed) {
    const auto entropy = MakeSeededEntropy(seed);
    std::vector<int32_t> tokens(length);
    for (int32_t& token : tokens) token = Draw(*entropy, 0, kVocab - 1);
    return tokens;
  }
  std::shared_ptr<Client> Admit(std::vector<int32_t> prompt, int32_t max_tokens, int32_t prompt_logprobs = -1,
                                bool pooled = false) {
    auto client = std::make_shared<Client>();
    Request request{.id = RequestId{++next_}, .name = absl::StrCat("r", next_)};
    request.prompt = client->prompt = std::move(prompt);
    request.max_tokens = client->max_tokens = max_tokens;
    request.prompt_logprobs = prompt_logprobs;
    request.pooled = pooled;
    request.arrival = clock_.Now();
    request.deadline = absl::InfiniteFuture();
    request.sink = client;
    scheduler_->Admit(std::move(request));
    return client;
  }
  void Turn() {
    if (std::optional<StepResult> result = replica_.Turn()) scheduler_->OnResult(*std::move(result));
    scheduler_->CheckInvariants();
    scheduler_->RunOnce();
    scheduler_->CheckInvariants();
  }
  void Finish() {
    for (int i = 0; i < 100000 && !(scheduler_->idle() && !replica_.busy()); ++i) Turn();
    ASSERT_TRUE(scheduler_->idle());
  }
  static void ExpectRight(const Client& client) {
    ASSERT_TRUE(client.end);
    EXPECT_OK(client.end->status);
    std::vector<int32_t> tokens = client.prompt;
    while (tokens.size() < client.prompt.size() + client.max_tokens) tokens.push_back(NextToken(tokens));
    EXPECT_EQ(client.got,
              std::vector<int32_t>(tokens.begin() + static_cast<ptrdiff_t>(client.prompt.size()), tokens.end()));
  }
  // Positions of all plans from `first` on.
  int64_t Planned(size_t first = 0) const {
    int64_t tokens = 0;
    for (size_t p = first; p < replica_.plans().size(); ++p) tokens += replica_.plans()[p].tokens();
    return tokens;
  }

  ManualClock clock_;
  Metrics metrics_{"test"};
  std::unique_ptr<Entropy> entropy_ = MakeSeededEntropy(1);
  FakeReplica replica_{*entropy_};
  Scheduler::Options options_;
  uint64_t epoch_ = 0, next_ = 0;
  std::unique_ptr<Scheduler> scheduler_;
};

// Blocks hold no logits and no hidden states: who asks for these computes the prompt, though its KV is there. What it
// seals is the same block as before, for whoever comes next.
TEST_F(SchedulerKv, ScoresAndPoolingComputeWhatTheCacheHas) {
  Form(MakeRanks(4, 1, kBlockTokens, 1000, 100));
  const std::vector<int32_t> text = Text(64, 1);
  const auto first = Admit(text, 1);
  Finish();
  const int32_t cached = scheduler_->Load().blocks_cached;
  for (const bool pooled : {false, true}) {
    const size_t plans = replica_.plans().size();
    const auto asks = Admit(text, 0, pooled ? -1 : 2, pooled);
    Finish();
    ExpectRight(*asks);
    EXPECT_EQ(Planned(plans), 64);
    EXPECT_EQ(asks->cached, 0);
    EXPECT_EQ(asks->scored, pooled ? 0 : 63);
    EXPECT_EQ(asks->pooled, pooled ? PooledOf(text) : -1);
    EXPECT_EQ(asks->end->reason, FinishReason::kLength);
    EXPECT_EQ(scheduler_->Load().blocks_cached, cached);
  }
  const size_t plans = replica_.plans().size();
  const auto last = Admit(text, 1);
  Finish();
  ExpectRight(*last);
  EXPECT_EQ(Planned(plans), kBlockTokens);
}

TEST_F(SchedulerKv, APrefixThatTwoShareIsComputedOnce) {
  Form(MakeRanks(4, 1, kBlockTokens, 1000, 100));
  std::vector<int32_t> first = Text(64, 1), second = first;
  first.push_back(1);
  second.push_back(2);
  const auto one = Admit(first, 1);
  Finish();
  const size_t plans = replica_.plans().size();
  const auto two = Admit(second, 1);
  Finish();
  ExpectRight(*one);
  ExpectRight(*two);
  EXPECT_EQ(Planned(plans), 1);
  EXPECT_EQ(one->cached, 0);
  EXPECT_EQ(two->cached, 64);
  EXPECT_EQ(two->end->cached_tokens, 64);
  EXPECT_EQ(metrics_.Total("vllm:prefix_cache_hits_total"), 64);
}

TEST_F(SchedulerKv, EqualPromptsAtOncePlanThePromptOnce) {
  Form(MakeRanks(4, 1, kBlockTokens, 1000, 100));
  std::vector<std::shared_ptr<Client>> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(Admit(Text(81, 1), 5));
  Finish();
  for (const auto& client : clients) ExpectRight(*client);
  EXPECT_EQ(Planned(), 81 + 3 * 1 + 4 * 4) << "the prompt, the last position of the others, and what each decodes";
}

TEST_F(SchedulerKv, KeptLayersRiseAgainAfterABurst) {
  Form(MakeRanks(4, 1, kBlockTokens, /*slots=*/80, /*frames=*/400));
  const auto longest = Admit(Text(64, 1), 300);
  for (int i = 0; i < 40; ++i) Turn();
  std::vector<std::shared_ptr<Client>> burst;
  for (uint64_t i = 2; i < 6; ++i) burst.push_back(Admit(Text(40, i), 20));
  int32_t least = 4;
  for (int i = 0; i < 10000 && std::any_of(burst.begin(), burst.end(), [](const auto& c) { return !c->end; }); ++i) {
    Turn();
    if (!longest->end) least = std::min(least, scheduler_->Explain("r1")->keep_layers);
  }
  EXPECT_LT(least, 4) << "the burst fits beside it: this shows nothing";
  int32_t after = 0;
  for (int i = 0; i < 30 && !longest->end; ++i) {
    Turn();
    after = std::max(after, scheduler_->Explain("r1")->keep_layers);
  }
  EXPECT_GT(after, least);
  EXPECT_GT(metrics_.Total("interlace_request_promotions_total"), 0);
  Finish();
  ExpectRight(*longest);
  for (const auto& client : burst) ExpectRight(*client);
}

// Two requests that fill 70 % of the pool each: whoever gives way goes on from where it was.
TEST_F(SchedulerKv, TwoThatDoNotFitTogetherAreNotComputedTwice) {
  for (const int32_t frames : {0, 400}) {
    Form(MakeRanks(4, 1, kBlockTokens, /*slots=*/4 * 50, frames));
    const size_t plans = replica_.plans().size();
    const auto one = Admit(Text(200, 10 + frames), 80), two = Admit(Text(200, 11 + frames), 80);
    Finish();
    ExpectRight(*one);
    ExpectRight(*two);
    EXPECT_LE(static_cast<double>(Planned(plans)), 1.05 * 2 * 279) << frames << " frames";
  }
}

TEST_F(SchedulerKv, APlanThatParksAdmitsNobody) {
  options_.fixed_keep = 2;
  Form(MakeRanks(2, 1, kBlockTokens, /*slots=*/24, 0));  // 12 blocks
  std::vector<std::shared_ptr<Client>> clients;
  for (uint64_t i = 1; i <= 5; ++i) clients.push_back(Admit(Text(20, i), 40));
  Finish();
  for (const auto& client : clients) ExpectRight(*client);
  EXPECT_GT(metrics_.Total("interlace_request_parks_total"), 0) << "nobody was parked: this shows nothing";
  for (const StepPlan& plan : replica_.plans()) {
    std::set<RequestId> parked;
    for (const Release& release : plan.releases) {
      // Those that had ended open no more; a parked one opens again in a later plan.
      for (const StepPlan& later : replica_.plans()) {
        for (const PlanSequence& s : later.sequences) {
          if (later.id > plan.id && s.request == release.request) parked.insert(s.request);
        }
      }
    }
    for (const PlanSequence& s : plan.sequences) EXPECT_FALSE(s.opening && !parked.empty()) << plan.ToString();
  }
}

// Parking is the last resort, and only where it makes room: each park lets the one before it go on.
TEST_F(SchedulerKv, NobodyIsParkedForNothing) {
  options_.fixed_keep = 2;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const double before = metrics_.Total("interlace_request_parks_total");
    Form(MakeRanks(2, 1, kBlockTokens, /*slots=*/40, 0));
    std::vector<std::shared_ptr<Client>> clients;
    for (uint64_t i = 0; i < 3; ++i) clients.push_back(Admit(Text(20, 100 * seed + i), 60));  // 10 blocks each
    Finish();
    for (const auto& client : clients) ExpectRight(*client);
    EXPECT_LE(metrics_.Total("interlace_request_parks_total") - before, 4);
  }
}

TEST_F(SchedulerKv, MoreStreamsThanAStepHasRowsAllAdvance) {
  options_.step_tokens = 4;
  options_.max_running = 12;
  for (int32_t stages : {1, 3}) {
    Form(MakeRanks(3, stages, kBlockTokens, 2000, 0));
    std::vector<std::shared_ptr<Client>> clients;
    for (uint64_t i = 1; i <= 12; ++i) clients.push_back(Admit(Text(1, i + 100 * stages), 200));
    for (int i = 0; i < 600; ++i) Turn();
    size_t least = 1000, most = 0;
    for (const auto& client : clients) {
      least = std::min(least, client->got.size());
      most = std::max(most, client->got.size());
    }
    EXPECT_GT(least, 5u) << "starved";
    EXPECT_LE(most, least + 12) << "one stream got far ahead of another";
    Finish();
    for (const auto& client : clients) ExpectRight(*client);
  }
}

TEST_F(SchedulerKv, OneStageHasTwoPlansInFlightWhileAStreamDecodes) {
  Form(MakeRanks(2, 1, kBlockTokens, 100, 0));
  const auto client = Admit(Text(5, 1), 20);
  scheduler_->RunOnce();
  EXPECT_EQ(replica_.plans().size(), 2u);
  EXPECT_EQ(replica_.plans().back().sequences.at(0).tokens, PlanTokens{kLastSample});
  EXPECT_EQ(replica_.plans().back().sequences[0].sample_index, 1);
  Finish();
  ExpectRight(*client);
  EXPECT_EQ(Planned(), 5 + 19) << "nothing is planned past the end";
}

// However many stages there are, a stream alone has a step in every plan that may be in flight.
TEST_F(SchedulerKv, AStreamRunsOnWithWhatTheLastOfSeveralStagesSampled) {
  for (int32_t stages : {2, 3}) {
    Form(MakeRanks(6, stages, kBlockTokens, 100, 0));
    const size_t before = replica_.plans().size();
    const auto client = Admit(Text(5, 1), 20);
    scheduler_->RunOnce();
    ASSERT_EQ(replica_.plans().size(), before + static_cast<size_t>(stages) + 1);
    for (size_t p = 1; p <= static_cast<size_t>(stages); ++p) {
      const PlanSequence& s = replica_.plans()[before + p].sequences.at(0);
      EXPECT_EQ(s.tokens, PlanTokens{kLastSample});
      EXPECT_EQ(s.sample_index, static_cast<int32_t>(p));
    }
    Finish();
    ExpectRight(*client);
    EXPECT_EQ(Planned(before), 5 + 19) << "nothing is planned past the end";
  }
}

// No stage waits for a token while there is another stream that it could compute: a stream rests for as many plans as
// other groups have their turn.
TEST_F(SchedulerKv, StreamsTakeTurnsOnSeveralStages) {
  for (int32_t stages : {2, 3}) {
    for (int32_t streams : {1, 2, 3, 5, 8}) {
      Form(MakeRanks(6, stages, kBlockTokens, 2000, 0));
      std::vector<std::shared_ptr<Client>> clients;
      for (int32_t i = 0; i < streams; ++i) clients.push_back(Admit(Text(3, 100 * streams + i), 60));
      for (int i = 0; i < 60; ++i) Turn();  // until all prompts are computed and the streams have found their groups
      const size_t begin = replica_.plans().size();
      for (int i = 0; i < 120; ++i) Turn();
      const int32_t group = (streams + stages - 1) / stages;
      const int32_t groups = (streams + group - 1) / group;
      std::map<RequestId, size_t> latest;
      ASSERT_GT(replica_.plans().size(), begin + 10);
      for (size_t p = begin; p < replica_.plans().size(); ++p) {
        const std::vector<PlanSequence>& planned = replica_.plans()[p].sequences;
        EXPECT_GE(static_cast<int32_t>(planned.size()), streams / groups) << streams << " streams, " << stages;
        EXPECT_LE(static_cast<int32_t>(planned.size()), group) << streams << " streams, " << stages;
        for (const PlanSequence& s : planned) {
          const auto before = latest.find(s.request);
          if (before != latest.end()) {
            EXPECT_EQ(p - before->second, static_cast<size_t>(groups)) << streams << " streams, " << stages;
          }
          latest[s.request] = p;
        }
      }
      Finish();
      for (const auto& client : clients) ExpectRight(*client);
    }
  }
}

// Where stages share their cores, nobody rests: each plan has every stream, and so many plans are under way as before.
TEST_F(SchedulerKv, WithOneTurnAllStreamsRunTogether) {
  options_.turns = 1;
  for (int32_t stages : {2, 3}) {
    for (int32_t streams : {1, 3, 8}) {
      Form(MakeRanks(6, stages, kBlockTokens, 2000, 0));
      std::vector<std::shared_ptr<Client>> clients;
      for (int32_t i = 0; i < streams; ++i) clients.push_back(Admit(Text(3, 100 * streams + i), 200));
      for (int i = 0; i < 60; ++i) Turn();  // until all prompts are computed
      const size_t begin = replica_.plans().size();
      for (int i = 0; i < 120; ++i) Turn();
      ASSERT_GT(replica_.plans().size(), begin + 10);
      for (size_t p = begin; p < replica_.plans().size(); ++p) {
        EXPECT_EQ(replica_.plans()[p].sequences.size(), static_cast<size_t>(streams))
            << stages << " stages, plan " << p;
      }
      Finish();
      for (const auto& client : clients) ExpectRight(*client);
    }
  }
}

TEST_F(SchedulerKv, ALongPromptFillsThePipelineAlone) {
  Form(MakeRanks(3, 3, kBlockTokens, 1000, 0));
  const auto client = Admit(Text(320, 1), 4);
  scheduler_->RunOnce();
  EXPECT_GE(replica_.plans().size(), 3u);
  EXPECT_EQ(Planned(), 32 * static_cast<int64_t>(replica_.plans().size()));
  Finish();
  ExpectRight(*client);
}

TEST_F(SchedulerKv, DraftsChangeNothingButThePlans) {
  options_.draft_tokens = 4;
  for (int32_t stages : {1, 2}) {
    Form(MakeRanks(2, stages, kBlockTokens, 2000, 0));
    const size_t plans = replica_.plans().size();
    const auto client = Admit(Text(700, 7), 90);  // pairs of tokens come again by chance
    Finish();
    ExpectRight(*client);
    int32_t drafts = 0;
    for (size_t p = plans; p < replica_.plans().size(); ++p) {
      for (const PlanSequence& s : replica_.plans()[p].sequences) drafts += s.drafts;
    }
    EXPECT_GT(drafts, 0) << "nothing was guessed: this shows nothing";
  }
}

TEST_F(SchedulerKv, BlocksComeBackFromBelowAfterARestart) {
  const std::vector<RankInfo> ranks = MakeRanks(4, 2, kBlockTokens, 1000, 100, 0, /*tiers=*/true);
  Form(ranks);
  const std::vector<int32_t> prompt = Text(65, 1);
  Admit(prompt, 1);
  Finish();
  Form(ranks);  // device and host are empty
  const size_t plans = replica_.plans().size();
  const auto again = Admit(prompt, 1);
  Finish();
  ExpectRight(*again);
  EXPECT_EQ(Planned(plans), 1);
  EXPECT_EQ(again->end->cached_tokens, 64);
  EXPECT_EQ(metrics_.Total("interlace_kv_fetched_blocks_total"), 8);
}

TEST_F(SchedulerKv, WhatCannotBeFetchedIsComputed) {
  const std::vector<RankInfo> ranks = MakeRanks(4, 2, kBlockTokens, 1000, 100, 0, /*tiers=*/true);
  Form(ranks);
  const std::vector<int32_t> prompt = Text(65, 1);
  Admit(prompt, 1);
  Finish();
  replica_.fetch_percent = 0;
  Form(ranks);
  const size_t plans = replica_.plans().size();
  const auto again = Admit(prompt, 1);
  Finish();
  ExpectRight(*again);
  EXPECT_EQ(Planned(plans), 65);
  EXPECT_EQ(again->end->cached_tokens, 0) << "counted at the start that came true";
  EXPECT_THAT(scheduler_->Explain(absl::StrCat("r", next_))->Texts(), testing::Contains(HasSubstr("computed instead")));
}

}  // namespace
}  // namespace interlace
