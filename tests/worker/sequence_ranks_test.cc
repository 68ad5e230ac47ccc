// Ranks of a stage that divide the rows of its steps: whatever the cuts, and however they change from step to step, the
// results are those of one rank, to the bit.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/thread.h"
#include "kernels/modular/modular.h"
#include "tests/worker/pipeline_replica.h"
#include "tests/worker/streams.h"
#include "tests/worker/tiny_file.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kLayers = 5, kVocab = 290, kBlockTokens = 8;

std::vector<int32_t> RandomCuts(Random& random, int32_t rows, int32_t most_ranks) {
  std::vector<int32_t> cuts;
  for (int64_t c = random.Below(most_ranks); c > 0; --c) cuts.push_back(static_cast<int32_t>(random.Between(0, rows)));
  std::sort(cuts.begin(), cuts.end());
  return cuts;
}

// On one rank, which has no others to tell, and on several.
class SequenceRanksTest : public testing::TestWithParam<std::string> {
 protected:
  static MakeBackend Make() { return GetParam() == "modular" ? &MakeModularBackend : nullptr; }
  static const DType kKv = DType::kF32;
  static int64_t SlotBytes() { return KvBlockShape{kBlockTokens, 2, 16, kKv}.bytes(); }
  static Config TinyConfig() {
    static const TinyFile file({.layers = kLayers});
    Config config = OneThreadConfig(file.path(), kBlockTokens);
    if (GetParam() == "reference") config.engine.ops = "reference";
    config.kv.device_bytes.value = 3000 * SlotBytes();
    config.kv.host_bytes.value = 10000 * (SlotBytes() + 64);
    config.kv.tiers = "";
    config.kv.read_timeout = absl::Seconds(30);
    config.sched.step_tokens = 256;
    config.sched.chunk_tokens = 64;
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, SequenceRanksTest, testing::Values("cpu", "reference", "modular"),
                         [](const auto& info) { return info.param; });

// ---- by plans made here

// The ranks of one stage; each executes a plan on a thread of its own.
class Stage {
 public:
  Stage(Config config, int32_t ranks, MakeBackend make) {
    config.cluster.sequence_ranks = ranks;
    std::vector<std::string> addresses;
    for (int32_t r = 0; r < ranks; ++r) {
      config.cluster.sequence_rank = r;
      auto rank = Rank::Create(
          config, static_cast<uint64_t>(r) + 1, clock_, faults_, nullptr, [](int64_t, int64_t) {}, make);
      EXPECT_OK(rank);
      ranks_.push_back(*std::move(rank));
      addresses.push_back(ranks_.back()->info().collective_address);
    }
    for (auto& rank : ranks_)
      EXPECT_OK(rank->Connect("", "", ranks == 1 ? std::vector<std::string>() : addresses, Epoch{1}));
  }
  std::vector<StepResult> Execute(const StepPlan& plan) {
    std::vector<StepResult> results(ranks_.size());
    std::vector<Thread> threads;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      threads.emplace_back("rank", [&, r] { results[r] = ranks_[r]->runner().Execute(plan); });
    }
    for (Thread& thread : threads) thread.Join();
    return results;
  }
  const RankInfo& info(size_t rank) const { return ranks_[rank]->info(); }

 private:
  RealClock clock_;
  FaultPoints faults_;
  std::vector<std::unique_ptr<Rank>> ranks_;
};

// Steps of some sequences: prompts in chunks of any size, then tokens one by one, some with guesses. What they ask
// for besides is drawn, too: scores, means of hidden states, keys of layers.
class Steps {
 public:
  explicit Steps(uint64_t seed) : random_(seed) {
    for (uint64_t r = 1; r <= 4; ++r) sequences_.push_back({r, static_cast<int32_t>(random_.Between(20, 90))});
  }
  StepPlan Next() {
    StepPlan plan{.epoch = Epoch{1}, .id = PlanId{++plans_}};
    while (plan.sequences.empty()) {
      for (Known& known : sequences_) {
        if (random_.Below(3) > 0) Add(known, &plan);
      }
    }
    return plan;
  }
  Random& random() { return random_; }

 private:
  struct Known {
    uint64_t request = 0;
    int32_t prompt = 0;
    int32_t done = 0, made = 0;
    bool pools = false;
  };
  void Add(Known& known, StepPlan* plan) {
    if (known.done > known.prompt + 15) {  // it makes room for another
      plan->releases.push_back({RequestId{known.request}, {}});
      known = {known.request + 100, static_cast<int32_t>(random_.Between(20, 90))};
    }
    PlanSequence& s = plan->sequences.emplace_back();
    s.request = RequestId{known.request};
    s.start = known.done;
    const bool reads = known.done < known.prompt;
    const auto rows = static_cast<int32_t>(reads ? random_.Between(1, std::min(40, known.prompt - known.done))
                                                 : 1 + random_.Below(3));
    for (int32_t i = 0; i < rows; ++i) s.tokens.push_back(static_cast<int32_t>(random_.Below(kVocab)));
    if (known.done == 0) {
      s.opening = Opening{};
      s.kept = LayerSet::Interleaved(static_cast<int32_t>(random_.Below(kLayers + 1)), kLayers);
      known.pools = random_.Below(2) == 0;
    }
    s.drafts = reads ? 0 : rows - 1;
    known.done += rows - s.drafts;  // guesses are taken back
    s.names = SealedNames{s.start / kBlockTokens, {}};
    for (int32_t b = s.start / kBlockTokens; b < known.done / kBlockTokens; ++b) {
      s.names->ids.push_back({known.request, static_cast<uint64_t>(b) + 1});
    }
    s.sample = known.done >= known.prompt;
    if (s.sample) s.sample_index = known.made++;
    if (!reads) return;
    if (known.pools) s.pool = s.sample ? Pooling::kGive : Pooling::kAdd;
    if (random_.Below(2) == 0) {
      ScoreAsk& ask = s.score.emplace();
      ask.first = static_cast<int32_t>(random_.Below(rows));
      ask.top = 2;
      for (int64_t t = random_.Between(1, rows - ask.first); t > 0; --t) {
        ask.targets.push_back(static_cast<int32_t>(random_.Below(kVocab)));
      }
    }
    if (known.done > 3) s.key = KeyAsk{LayerId{static_cast<int32_t>(known.request % kLayers)}, 3, s.sample};
  }

  Random random_;
  std::vector<Known> sequences_;
  uint64_t plans_ = 0;
};

// A degree for each of four hundred steps, cuts anywhere: at the ends, within a sequence, several at one row.
TEST_P(SequenceRanksTest, AnyCutsGiveTheResultsOfOneRank) {
  int64_t divided = 0, changes = 0, sampled = 0, scored = 0, pooled = 0, keys = 0;
  for (const int32_t ranks : {2, 3}) {
    Stage alone(TinyConfig(), 1, Make()), stage(TinyConfig(), ranks, Make());
    EXPECT_EQ(stage.info(1).numerics, alone.info(0).numerics) << "blocks have the names of one rank's";
    EXPECT_EQ(stage.info(1).heads, alone.info(0).heads);
    Steps steps(static_cast<uint64_t>(ranks));
    int32_t before = 1;
    for (int step = 0; step < 200; ++step) {
      StepPlan plan = steps.Next();
      const StepResult want = alone.Execute(plan)[0];
      ASSERT_OK(want.status);
      ASSERT_TRUE(want.lost.empty()) << plan.ToString() << ": " << want.lost[0].detail;
      plan.row_cuts = RandomCuts(steps.random(), plan.tokens(), ranks);
      divided += plan.row_cuts.empty() ? 0 : 1;
      changes += std::exchange(before, plan.row_ranks()) != before ? 1 : 0;
      for (const StepResult& got : stage.Execute(plan)) {
        ASSERT_OK(got.status) << plan.ToString();
        ASSERT_EQ(got.sampled, want.sampled) << plan.ToString();
        ASSERT_EQ(got.scored, want.scored) << plan.ToString();
        ASSERT_EQ(got.pooled, want.pooled) << plan.ToString();
        ASSERT_EQ(got.keys, want.keys) << plan.ToString();
        ASSERT_EQ(got.lost, want.lost) << plan.ToString();
      }
      sampled += static_cast<int64_t>(want.sampled.size());
      scored += static_cast<int64_t>(want.scored.size());
      pooled += static_cast<int64_t>(want.pooled.size());
      keys += static_cast<int64_t>(want.keys.size());
    }
  }
  EXPECT_GT(divided, 150);
  EXPECT_GT(changes, 150);
  EXPECT_GT(sampled, 100);
  EXPECT_GT(scored, 20);
  EXPECT_GT(pooled, 3);
  EXPECT_GT(keys, 5);
}

TEST_P(SequenceRanksTest, RefusesCutsThatMakeNoSense) {
  const auto status_of = [](Stage& stage, std::vector<int32_t> cuts) {
    StepPlan plan{.epoch = Epoch{1}, .id = PlanId{1}};
    PlanSequence& s = plan.sequences.emplace_back(PlanSequence{.request = RequestId{1}, .tokens = {5, 6, 7}});
    s.opening = Opening{};
    plan.row_cuts = std::move(cuts);
    return stage.Execute(plan)[0].status;
  };
  Stage alone(TinyConfig(), 1, Make()), two(TinyConfig(), 2, Make());
  EXPECT_THAT(status_of(alone, {1}), StatusIs(absl::StatusCode::kInvalidArgument,
                                              HasSubstr("row_cuts: 2 ranks divide its rows, and the stage has 1")));
  for (const int32_t cut : {-1, 4}) {
    EXPECT_THAT(status_of(two, {cut}),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("behind 0 in a step of 3 rows")));
  }
  EXPECT_THAT(status_of(two, {1, 2}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row_cuts: 3 ranks")));
}

// ---- by a scheduler

// Streams, scored and pooled prompts; some share a beginning by way of the cache.
const std::vector<Ask>& Asks() {
  static const auto* asks = [] {
    auto* made = new std::vector<Ask>(RandomAsks(6, 10, 150, 16, kVocab, 21));
    (*made)[1].prompt_logprobs = 2;
    for (const size_t masked : {3, 4}) {
      for (int32_t t = 10; t < 60; t += 3) (*made)[masked].sampling.allowed_tokens.push_back(t);
    }
    for (const bool pooled : {false, true}) {
      Ask& ask = made->emplace_back((*made)[2]);
      ask.max_tokens = 0;
      ask.pooled = pooled;
      ask.prompt_logprobs = pooled ? -1 : 3;
    }
    return made;
  }();
  return *asks;
}

std::vector<Answer> AnswersOf(const Config& config, MakeBackend make, PipelineReplica::Rewrite rewrite,
                              const std::string& points = "", bool together = true, int32_t drafts = 0,
                              const std::vector<Ask>& asks = Asks()) {
  RealClock clock;
  std::unique_ptr<FaultPoints> faults = *FaultPoints::Parse(points, 5);
  auto replica = PipelineReplica::Create(config, clock, *faults, make, drafts, Speculate::kNgram, std::move(rewrite));
  EXPECT_OK(replica);
  Clients clients((*replica)->engine(), clock);
  std::vector<Answer> answers = clients.Run(asks, together);
  const Holding held = (*replica)->AwaitNothingHeld(clock);
  EXPECT_TRUE(held.nothing()) << held.sequences << " sequences, " << held.scheduled_blocks << " blocks are left";
  return answers;
}

// Cuts of the scheduler's own, and any cuts at all, decode steps of a row or two included.
TEST_P(SequenceRanksTest, SameStreamsAsOneRank) {
  const std::vector<Answer> expected = AnswersOf(TinyConfig(), Make(), nullptr, "", false);
  int64_t divided = 0;
  Random random(8);
  for (const int32_t ranks : {2, 3}) {
    const PipelineReplica::Rewrite own = [&](StepPlan* plan) { divided += plan->row_cuts.empty() ? 0 : 1; };
    const PipelineReplica::Rewrite any = [&](StepPlan* plan) {
      plan->row_cuts = RandomCuts(random, plan->tokens(), ranks);
    };
    for (const auto& [rewrite, cuts] : {std::pair(own, "own cuts"), std::pair(any, "any cuts")}) {
      const auto check = [&, rewrite = rewrite, cuts = cuts](const std::string& what, int32_t drafts, auto change) {
        Config config = TinyConfig();
        config.cluster.sequence_ranks = ranks;
        change(config);
        const std::vector<Answer> answers = AnswersOf(config, Make(), rewrite, "", true, drafts);
        ExpectSameStreams(expected, answers, absl::StrCat(what, ", ", cuts, ", ", ranks, " ranks"));
      };
      for (const char* keep : {"0", "2", "5"}) {
        check(absl::StrCat("keep ", keep), 0, [&](Config& c) { c.kv.keep_layers = keep; });
      }
      check("all at once", 0, [](Config& c) { c.sched.chunk_tokens = 256; });
      check("small chunks", 0, [](Config& c) { c.sched.chunk_tokens = 7; });
      check("scarce", 0, [](Config& c) { c.kv.device_bytes.value = 60 * SlotBytes(); });
      check("guesses", 3, [](Config&) {});
      check("two stages", 0, [](Config& c) { c.cluster.stages = 2; });
      check("three stages", 0, [](Config& c) {
        c.cluster.stages = 3;
        c.kv.device_bytes.value = 40 * SlotBytes();
        c.sched.chunk_tokens = 33;
      });
    }
  }
  EXPECT_GT(divided, 10) << "the scheduler never divides a step: its own cuts show nothing";
}

// One after another from one rank to three: each hands what it has to the next, since all hold it.
TEST_P(SequenceRanksTest, TheDegreeChangesAHundredTimesInAStream) {
  const std::vector<Ask> asks = RandomAsks(1, 90, 90, 110, kVocab, 4);
  Config config = TinyConfig();
  const std::vector<Answer> expected = AnswersOf(config, Make(), nullptr, "", false, 0, asks);
  config.cluster.sequence_ranks = 3;
  config.kv.keep_layers = "3";
  config.sched.chunk_tokens = 32;
  Random random(6);
  int32_t changes = 0, before = 0;
  const std::vector<Answer> answers = AnswersOf(
      config, Make(),
      [&](StepPlan* plan) {
        if (plan->sequences.empty()) return;
        plan->row_cuts.clear();
        for (int32_t c = changes % 3; c > 0; --c) {
          plan->row_cuts.push_back(static_cast<int32_t>(random.Between(0, plan->tokens())));
        }
        std::sort(plan->row_cuts.begin(), plan->row_cuts.end());
        changes += std::exchange(before, plan->row_ranks()) != before ? 1 : 0;
      },
      "", false, 0, asks);
  ExpectSameStreams(expected, answers, "a stream");
  EXPECT_GE(changes, 100);
}

// Each rank damages and loses blocks for itself. In a step that is divided the others have K and V of its rows, so what
// it has lost they have lost; in one that is not, they have none.
TEST_P(SequenceRanksTest, WhatOneRankLosesShowsInNoStream) {
  const std::vector<Answer> expected = AnswersOf(TinyConfig(), Make(), nullptr, "", false);
  const std::string points =
      "kv.flip_at_rest:0.001,kv.flip_in_flight:0.001,kv.swap_layer:0.001,kv.swap_request:0.001,kv.read_lost:0.001";
  Random random(9);
  int32_t recomputes = 0;
  for (const char* tiers : {"", "rocksdb"}) {
    for (const int32_t stages : {1, 2}) {
      for (const int32_t ranks : {2, 3}) {
        Config config = TinyConfig();
        config.cluster.stages = stages;
        config.cluster.sequence_ranks = ranks;
        config.kv.keep_layers = "0";
        config.kv.tiers = tiers;
        config.kv.rocksdb_dir = TestPath("rocksdb");
        config.kv.rocksdb_bytes.value = 64 << 20;
        if (!config.kv.tiers.empty()) config.kv.host_bytes.value = 400 * (SlotBytes() + 64);
        config.sched.max_recomputes = 1000000;
        std::filesystem::remove_all(config.kv.rocksdb_dir);
        const std::vector<Answer> answers = AnswersOf(
            config, Make(), [&](StepPlan* plan) { plan->row_cuts = RandomCuts(random, plan->tokens(), ranks); },
            points);
        std::filesystem::remove_all(config.kv.rocksdb_dir);
        ExpectSameStreams(expected, answers, absl::StrCat("tiers=", tiers, " stages=", stages, " ranks=", ranks));
        for (const Answer& answer : answers) recomputes += answer.explanation.recomputes;
      }
    }
  }
  EXPECT_GT(recomputes, 0) << "nothing was lost: this shows nothing";
}

}  // namespace
}  // namespace interlace
