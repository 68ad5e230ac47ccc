// The facade: it learns which plan suits which prompts from what streams did, costs no more than it may, and what is
// kept or told of it is taken whole or not at all.
#include "coordinator/skip_index/skip_advisor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "common/thread.h"
#include "coordinator/skip_index/skip_file.h"
#include "tests/skip_index/key_cloud.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kLayers = 16, kWidth = 24, kTasks = 3;
const SkipScope kScope{1, 2};

PassCosts Costs() { return {.layers = kLayers}; }
SkipAdvisor::Options OptionsOf(double explore = 0.02) {
  return {.model_digest = "model", .layers = kLayers, .most_bytes = 1 << 20, .explore = explore};
}

// Prompts of a few tasks; in each, others of their sublayers must not be passed over.
class Workload {
 public:
  explicit Workload(uint64_t seed) : entropy_(MakeSeededEntropy(seed)) {
    for (int task = 0; task < kTasks; ++task) {
      centres_.push_back(RandomKey(*entropy_, kWidth));
      harm_.emplace_back();
      for (int32_t s = 0; s < 2 * kLayers; ++s) harm_.back().push_back(s % kTasks == task ? 0.12 : 0.002);
    }
  }
  int Task() { return static_cast<int>(entropy_->Next() % kTasks); }
  std::vector<float> Key(int task) { return Near(*entropy_, centres_[task], 0.3); }
  double RateOf(int task, const SkipPlan& plan) const {
    double sum = 0;
    for (int32_t s = 0; s < 2 * kLayers; ++s) {
      const LayerSet& set = s % 2 == 0 ? plan.attention : plan.feed_forward;
      if (set.Has(LayerId{s / 2})) sum += harm_[task][s];
    }
    return 0.96 * std::exp(-sum);
  }
  // A stream of the task by the plan, `tried` guesses long; a step without guesses takes a second.
  SkipOutcome Run(int task, const SkipPlan& plan, int tried = 48) {
    const double rate = RateOf(task, plan);
    SkipOutcome outcome{static_cast<double>(tried), 0, 0, static_cast<double>(tried)};
    for (int i = 0; i < tried; ++i) outcome.right += Uniform(*entropy_) < rate ? 1 : 0;
    outcome.saved = tried * (1 - PlanLoss(Costs(), plan, rate)) * (1 / PlanLoss(Costs(), plan, rate));
    return outcome;
  }
  SkipAdvice Stream(SkipAdvisor& advisor, int task) {
    const SkipAdvice advice = advisor.Advise(kScope, Key(task), Costs());
    advisor.Learn(advice, Run(task, advice.plan));
    return advice;
  }
  double LossOf(int task, const SkipPlan& plan) const { return PlanLoss(Costs(), plan, RateOf(task, plan)); }

 private:
  std::unique_ptr<Entropy> entropy_;
  std::vector<std::vector<float>> centres_;
  std::vector<std::vector<double>> harm_;
};

TEST(SkipAdvisorTest, AtFirstItSaysWhatIsSaidWithoutIt) {
  SkipAdvisor advisor(OptionsOf(), MakeSeededEntropy(1));
  Workload workload(1);
  const SkipAdvice advice = advisor.Advise(kScope, {}, Costs());
  EXPECT_EQ(advice.plan, SkipPlan::Evenly(static_cast<int32_t>(0.4 * 2 * (kLayers - 2)), kLayers));
  EXPECT_EQ(advice.entry, 0u);
}

TEST(SkipAdvisorTest, StreamsGetThePlanOfPromptsLikeTheirs) {
  SkipAdvisor advisor(OptionsOf(0.2), MakeSeededEntropy(2));
  Workload workload(2);
  double even = 0, learned = 0, hits = 0;
  constexpr int kStreams = 12000, kLast = 1000;
  for (int i = 0; i < kStreams; ++i) {
    const int task = workload.Task();
    const SkipAdvice advice = workload.Stream(advisor, task);
    if (i < kStreams - kLast) continue;
    hits += advice.source == SkipSource::kEntry ? 1 : 0;
    even += workload.LossOf(task, SkipPlan::Evenly(11, kLayers)) / kLast;
    learned += workload.LossOf(task, advice.plan) / kLast;
  }
  const SkipCounts counts = advisor.counts();
  std::printf("loss: even %.3f, learned %.3f; hits %.2f, entries %d, false hits %d of %d\n", even, learned,
              hits / kLast, static_cast<int>(counts.entries), static_cast<int>(counts.false_hits),
              static_cast<int>(counts.hits));
  EXPECT_LT(learned, even - 0.1);
  EXPECT_GT(hits, kLast * 0.6);
  EXPECT_LE(counts.false_hits, counts.lookups * HitThreshold::kMostWrong);
  EXPECT_GE(counts.entries, kTasks);
}

// Never below 0.98 of what the static plan gives, at any time.
TEST(SkipAdvisorTest, TrialsCostNoMoreThanTheirShare) {
  SkipAdvisor advisor(OptionsOf(), MakeSeededEntropy(3));
  const auto entropy = MakeSeededEntropy(3);
  double seconds = 0, lost = 0;
  for (int i = 0; i < 5000; ++i) {
    const SkipAdvice advice = advisor.Advise(kScope, RandomKey(*entropy, kWidth), Costs());
    // Whatever is tried is a disaster; what is not gains nothing.
    const SkipOutcome outcome{48, advice.explores() ? 0.0 : 30.0, advice.explores() ? -5.0 : 0.0, 10};
    advisor.Learn(advice, outcome);
    seconds += outcome.seconds;
    lost -= outcome.saved;
    ASSERT_LE(lost, 0.02 * seconds + 5) << i;  // one trial is under way before its cost is known
  }
  EXPECT_GT(lost, 0);
}

TEST(SkipAdvisorTest, WithoutAShareNothingIsTriedOnceATrialCost) {
  SkipAdvisor advisor(OptionsOf(0), MakeSeededEntropy(4));
  Workload workload(4);
  int trials = 0;
  for (int i = 0; i < 500; ++i) {
    const SkipAdvice advice = advisor.Advise(kScope, workload.Key(0), Costs());
    trials += advice.explores() ? 1 : 0;
    advisor.Learn(advice, {48, 10, -1, 10});
  }
  EXPECT_LE(trials, 1);
}

TEST(SkipAdvisorTest, WhateverIsToldOfOutcomesItStaysSound) {
  SkipAdvisor advisor(OptionsOf(), MakeSeededEntropy(5));
  const auto entropy = MakeSeededEntropy(5);
  const double wild[] = {NAN, INFINITY, -INFINITY, -1, 0, 1, 1e300, 48};
  const auto any = [&] { return wild[entropy->Next() % 8]; };
  for (int i = 0; i < 3000; ++i) {
    std::vector<float> key = RandomKey(*entropy, i % 50 == 49 ? kWidth + 1 : kWidth);
    if (i % 31 == 0) key[0] = NAN;
    if (i % 37 == 0) key.clear();
    SkipAdvice advice = advisor.Advise({1, entropy->Next() % 100}, key, Costs());
    ASSERT_TRUE(Fits(advice.plan, kLayers));
    if (i % 7 == 0) advice.entry = entropy->Next() % 50;
    if (i % 11 == 0) advice.search = entropy->Next() % 50;
    advisor.Learn(advice, {any(), any(), any(), any()});
  }
  EXPECT_LE(advisor.counts().bytes, 2 << 20);
  EXPECT_GT(advisor.counts().refused, 0) << "keys of another width";
}

class SkipFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "/skips-" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove(path_);
    advisor_ = std::make_unique<SkipAdvisor>(OptionsOf(0.2), MakeSeededEntropy(6));
    Workload workload(6);
    for (int i = 0; i < 20000; ++i) workload.Stream(*advisor_, workload.Task());
    ASSERT_GT(advisor_->counts().entries, 0);
  }
  std::string path_;
  std::unique_ptr<SkipAdvisor> advisor_;
};

TEST_F(SkipFileTest, WhatIsKeptServesTheNextProcessAtOnce) {
  SkipFile file(path_, 1 << 20);
  file.Keep(*advisor_);
  SkipAdvisor next(OptionsOf(), MakeSeededEntropy(7));
  file.Read(next);
  EXPECT_EQ(next.counts().entries, advisor_->counts().entries);
  Workload workload(6);
  int hits = 0;
  for (int i = 0; i < 300; ++i) {
    hits += workload.Stream(next, workload.Task()).source == SkipSource::kEntry ? 1 : 0;
  }
  EXPECT_GT(hits, 100);
}

TEST_F(SkipFileTest, DamageIsFoundCountedAndWrittenAnew) {
  const std::string saved = advisor_->Save();
  const auto entropy = MakeSeededEntropy(8);
  for (int i = 0; i < 400; ++i) {
    std::string damaged = saved;
    const size_t at = i < 64 ? static_cast<size_t>(i) : entropy->Next() % saved.size();
    if (i % 2 == 0) {
      damaged.resize(at);
    } else {
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << entropy->Next() % 8));
    }
    SkipAdvisor next(OptionsOf(), MakeSeededEntropy(7));
    ASSERT_FALSE(next.Load(damaged).ok()) << i << " at " << at;
    EXPECT_EQ(next.counts().entries, 0);
    EXPECT_EQ(next.counts().refused, 1);
  }
  SkipAdvisor next(OptionsOf(), MakeSeededEntropy(7));
  EXPECT_FALSE(next.Load(saved + saved).ok());
  EXPECT_OK(next.Load(saved));
  EXPECT_EQ(next.counts().entries, advisor_->counts().entries);
}

TEST_F(SkipFileTest, AnotherModelsFileIsRefusedAndAnotherProgramsLeftAlone) {
  SkipFile(path_, 1 << 20).Keep(*advisor_);
  SkipAdvisor::Options options = OptionsOf();
  options.model_digest = "other";
  SkipAdvisor other(options, MakeSeededEntropy(7));
  SkipFile file(path_, 1 << 20);
  file.Read(other);
  EXPECT_EQ(other.counts().entries, 0);
  EXPECT_EQ(other.counts().refused, 1);
  EXPECT_TRUE(file.used()) << "it is written anew";
  SkipFile foreign("/etc/passwd", 1 << 20);
  foreign.Read(other);
  EXPECT_FALSE(foreign.used());
}

TEST_F(SkipFileTest, AWidthThatRanksDoNotHaveIsGivenUp) {
  SkipAdvisor next(OptionsOf(), MakeSeededEntropy(7));
  ASSERT_OK(next.Load(advisor_->Save()));
  const auto entropy = MakeSeededEntropy(9);
  next.Advise(kScope, RandomKey(*entropy, kWidth + 8), Costs());
  EXPECT_EQ(next.counts().entries, 0);
  EXPECT_EQ(next.counts().refused, 1);
}

TEST_F(SkipFileTest, AStandbyFollows) {
  SkipAdvisor standby(OptionsOf(), MakeSeededEntropy(7));
  EXPECT_TRUE(standby.Export({}).bytes.empty());
  SkipCursor since;
  const auto follow = [&] {
    SkipAdvisor::Exported slice;
    do {
      slice = advisor_->Export(since);
      ASSERT_OK(standby.Import(slice.bytes));
      since = slice.until;
    } while (slice.more);
  };
  follow();
  EXPECT_EQ(standby.counts().entries, advisor_->counts().entries);
  Workload workload(6);
  for (int i = 0; i < 500; ++i) workload.Stream(*advisor_, workload.Task());
  follow();
  EXPECT_EQ(standby.counts().entries, advisor_->counts().entries);
  EXPECT_FALSE(standby.Import("nonsense").ok());
  EXPECT_EQ(standby.counts().refused, 1);
}

TEST(SkipAdvisorTest, ReplicasShareIt) {
  SkipAdvisor advisor(OptionsOf(), MakeSeededEntropy(10));
  {
    std::vector<Thread> replicas;
    for (uint64_t r = 0; r < 4; ++r) {
      replicas.emplace_back("replica", [&advisor, r] {
        Workload workload(11);
        for (int i = 0; i < 500; ++i) workload.Stream(advisor, static_cast<int>((r + i) % kTasks));
      });
    }
    for (int i = 0; i < 20; ++i) advisor.Save();
  }
  EXPECT_EQ(advisor.counts().lookups, 2000);
}

}  // namespace
}  // namespace interlace
