// CostModel against machines whose law is known.
#include "coordinator/cost_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "common/entropy.h"

namespace interlace {
namespace {

// A machine that follows the model's law, with noise.
class Machine {
 public:
  explicit Machine(uint64_t seed) : entropy_(MakeSeededEntropy(seed)) {
    fixed_ = 1e-3 * (1 + 10 * Uniform());
    row_ = 1e-4 * (1 + 5 * Uniform());
    read_ = 1e-7 * (1 + 20 * Uniform());
    product_ = 1e-9 * (1 + 300 * Uniform());
  }
  double Uniform() { return static_cast<double>(entropy_->Next() >> 11) / 9007199254740992.0; }
  int32_t Draw(int32_t low, int32_t high) { return low + static_cast<int32_t>(Uniform() * (high - low + 1)); }
  double Exact(const StepWork& work) const {
    return slow * (fixed_ + row_ * static_cast<double>(work.rows) + read_ * static_cast<double>(work.context) +
                   product_ * static_cast<double>(work.products));
  }
  absl::Duration Run(const StepWork& work) { return absl::Seconds(Exact(work) * (1 + noise * (2 * Uniform() - 1))); }
  StepWork Decode() {
    StepWork work;
    for (int32_t i = Draw(1, 32); i > 0; --i) work.Add(Draw(16, 2000), 1);
    return work;
  }
  StepWork Mixed() { return Decode().Add(Draw(0, 1500), Draw(16, 256)); }

  double slow = 1;
  double noise = 0.05;

 private:
  const std::unique_ptr<Entropy> entropy_;
  double fixed_, row_, read_, product_;
};

void ExpectClose(Machine& machine, const CostModel& model, double tolerance, uint64_t seed) {
  for (int i = 0; i < 50; ++i) {
    const StepWork work = i % 2 == 0 ? machine.Decode() : machine.Mixed();
    const double exact = machine.Exact(work);
    EXPECT_NEAR(absl::ToDoubleSeconds(model.Expect(work)), exact, tolerance * exact)
        << "seed " << seed << " rows " << work.rows;
  }
}

TEST(CostModel, LearnsTheLawOfAMachine) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Machine machine(seed);
    CostModel model;
    EXPECT_FALSE(model.known());
    for (int i = 0; i < 400; ++i) {
      const StepWork work = i % 3 == 0 ? machine.Mixed() : machine.Decode();
      model.Observe(work, machine.Run(work));
    }
    EXPECT_TRUE(model.known());
    ExpectClose(machine, model, 0.06, seed);
  }
}

TEST(CostModel, BoundHoldsForNinetyFiveOfAHundredSteps) {
  int64_t steps = 0, within = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Machine machine(seed);
    machine.noise = 0.3;
    CostModel model;
    for (int i = 0; i < 1200; ++i) {
      const StepWork work = i % 3 == 0 ? machine.Mixed() : machine.Decode();
      const absl::Duration took = machine.Run(work);
      if (i >= 400) {
        ++steps;
        within += took <= model.Bound(work) ? 1 : 0;
      }
      model.Observe(work, took);
    }
  }
  EXPECT_GE(within, 93 * steps / 100);
  EXPECT_LE(within, 98 * steps / 100) << "a bound that nothing ever reaches is no bound";
}

TEST(CostModel, FollowsAMachineThatBecomesSlower) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Machine machine(seed);
    CostModel model;
    for (int i = 0; i < 1200; ++i) {
      if (i == 400) machine.slow = 2;
      const StepWork work = i % 3 == 0 ? machine.Mixed() : machine.Decode();
      model.Observe(work, machine.Run(work));
    }
    ExpectClose(machine, model, 0.08, seed);
  }
}

TEST(CostModel, DecodingDoesNotMakeItForgetWhatPromptsCost) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Machine machine(seed);
    CostModel model;
    for (int i = 0; i < 300; ++i) {
      const StepWork work = machine.Mixed();
      model.Observe(work, machine.Run(work));
    }
    for (int i = 0; i < 2000; ++i) {  // one stream alone, whose context grows
      const StepWork work = StepWork().Add(100 + i, 1);
      model.Observe(work, machine.Run(work));
    }
    const StepWork prompt = StepWork().Add(0, 256);
    const double exact = machine.Exact(prompt);
    EXPECT_NEAR(absl::ToDoubleSeconds(model.Expect(prompt)), exact, 0.5 * exact) << "seed " << seed;
  }
}

TEST(CostModel, RowsWithinIsTheLargestNumberThatFits) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    Machine machine(seed);
    CostModel model;
    for (int i = 0; i < 100; ++i) {
      const StepWork work = machine.Mixed();
      model.Observe(work, machine.Run(work));
    }
    const StepWork others = machine.Decode();
    const int32_t start = machine.Draw(0, 1000), most = machine.Draw(1, 512);
    const absl::Duration limit = absl::Seconds(machine.Exact(others) * (0.5 + 4 * machine.Uniform()));
    const int32_t rows = model.RowsWithin(others, start, most, limit);
    const auto with = [&](int32_t count) {
      StepWork work = others;
      return model.Bound(work.Add(start, count));
    };
    ASSERT_GE(rows, 0);
    ASSERT_LE(rows, most);
    if (rows > 0) {
      EXPECT_LE(with(rows), limit) << "seed " << seed;
    }
    if (rows < most) {
      EXPECT_GT(with(rows + 1), limit) << "seed " << seed;
    }
  }
}

// Two ranks divide what they are quicker with, by what steps and exchanges took.
TEST(CostModel, DividesRowsWhereThatIsQuicker) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Machine machine(seed);
    machine.noise = 0.01;
    const double exchange = 1e-5 * machine.Uniform();  // seconds of a row
    CostModel model;
    model.DivideOver(3);
    EXPECT_EQ(model.RowRanks(StepWork().Add(0, 256)), 3) << "nothing is known: it is tried";
    EXPECT_EQ(model.RowRanks(StepWork().Add(0, 90)), 2) << "a third of the rows takes as long as reading weights";
    EXPECT_EQ(model.RowRanks(StepWork().Add(0, 20)), 1);
    const auto run = [&](const StepWork& work) {
      const int32_t ranks = model.RowRanks(work);
      if (ranks == 1) return model.Observe(work, machine.Run(work));
      model.ObserveDivided(work, ranks, machine.Run(ShareOf(work, ranks)),
                           absl::Seconds(exchange * static_cast<double>(work.rows)));
    };
    for (int i = 0; i < 600; ++i) run(i % 2 == 0 ? machine.Decode() : machine.Mixed());
    for (int i = 0; i < 50; ++i) {
      const StepWork work = machine.Mixed();
      const auto takes = [&](int32_t ranks) {
        const double rows = static_cast<double>(work.rows);
        return ranks == 1 ? machine.Exact(work) : machine.Exact(ShareOf(work, ranks)) + exchange * rows;
      };
      const double got = takes(model.RowRanks(work));
      double least = got;
      for (int32_t ranks = 1; ranks <= 3; ++ranks) {
        if (work.rows >= 32 * ranks) least = std::min(least, takes(ranks));
      }
      EXPECT_LE(got, 1.1 * least) << "seed " << seed << " rows " << work.rows;
      EXPECT_NEAR(absl::ToDoubleSeconds(model.Expect(work)), got, 0.15 * got) << "seed " << seed;
    }
  }
}

// An exchange that took long once, since others worked on the machine, is not held against it for ever.
TEST(CostModel, TriesAgainWhatWasDear) {
  Machine machine(3);
  CostModel model;
  model.DivideOver(2);
  const StepWork work = StepWork().Add(0, 256);
  for (int i = 0; i < 10; ++i) model.ObserveDivided(work, 2, machine.Run(ShareOf(work, 2)), absl::Seconds(1));
  ASSERT_EQ(model.RowRanks(work), 1);
  int steps = 0;
  for (; model.RowRanks(work) == 1 && steps < 5000; ++steps) model.Observe(work, machine.Run(work));
  EXPECT_LT(steps, 2000);
}

TEST(CostModel, TransfersHaveARateForEachRoute) {
  CostModel model;
  EXPECT_EQ(model.Transfer(Route::kIn, 1 << 20), absl::ZeroDuration());
  for (int i = 0; i < 200; ++i) model.ObserveTransfer(Route::kIn, 2'000'000, absl::Milliseconds(1));
  for (int i = 0; i < 200; ++i) model.ObserveTransfer(Route::kBelow, 1'000'000, absl::Milliseconds(10));
  EXPECT_NEAR(model.bytes_per_second(Route::kIn), 2e9, 1e6);
  EXPECT_NEAR(absl::ToDoubleSeconds(model.Transfer(Route::kBelow, 50'000'000)), 0.5, 1e-3);
  EXPECT_EQ(model.bytes_per_second(Route::kOut), 0);
}

}  // namespace
}  // namespace interlace
