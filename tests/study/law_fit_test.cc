// LawFit: the law that made the steps is found again.
#include "bench/study/law_fit.h"

#include <gtest/gtest.h>

#include "bench/serve/random_draws.h"
#include "common/entropy.h"

namespace interlace {
namespace {

// Steps as schedulers make them: a few streams that decode, and perhaps a piece of a prompt.
StepWork RandomStep(Draws& draws) {
  StepWork work;
  for (int64_t streams = draws.Below(20); streams > 0; --streams) work.Add(static_cast<int32_t>(draws.Below(2000)), 1);
  if (work.rows == 0 || draws.Uniform() < 0.3) {
    work.Add(static_cast<int32_t>(draws.Below(1000)), 1 + static_cast<int32_t>(draws.Below(256)));
  }
  return work;
}

MachineLaw RandomLaw(Draws& draws) {
  const auto some = [&](double scale) { return draws.Uniform() < 0.2 ? 0 : scale * draws.Uniform(); };
  MachineLaw law;
  law.fixed = 1e-4 + some(5e-3);
  law.row = some(1e-3);
  law.row_beyond = some(1e-3);
  law.context = some(3e-6);
  law.product = some(1e-6);
  law.moved = some(5e-10);
  return law;
}

TEST(LawFit, FindsTheLawThatMadeTheSteps) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    Draws draws(MakeSeededEntropy(seed));
    const MachineLaw law = RandomLaw(draws);
    LawFit one, other;
    for (int i = 0; i < 400; ++i) {
      const StepWork work = RandomStep(draws);
      const double bytes = draws.Uniform() < 0.5 ? 0 : 4e7 * draws.Uniform();
      (i % 2 == 0 ? one : other).Add(work, law.Compute(work, bytes), bytes);
    }
    one.Merge(other);
    EXPECT_EQ(one.steps(), 400);
    const MachineLaw found = one.Law();
    for (int i = 0; i < 50; ++i) {
      const StepWork work = RandomStep(draws);
      const double bytes = 4e7 * draws.Uniform();
      EXPECT_NEAR(found.Compute(work, bytes) / law.Compute(work, bytes), 1, 0.02) << "seed " << seed;
    }
    EXPECT_NEAR(one.Slowness(law), 1, 1e-9);
    EXPECT_NEAR(one.Slowness(Slowed(law, 4)), 0.25, 1e-9);
  }
}

// A law cannot take time back, whatever the steps say.
TEST(LawFit, HasNoCoefficientBelowZero) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    Draws draws(MakeSeededEntropy(seed));
    LawFit fit;
    for (int i = 0; i < 100; ++i) fit.Add(RandomStep(draws), 1e-3 + draws.Uniform(), 4e7 * draws.Uniform());
    const MachineLaw law = fit.Law();
    for (const double term : {law.fixed, law.row, law.row_beyond, law.context, law.product, law.moved})
      EXPECT_GE(term, 0);
    EXPECT_NEAR(fit.Slowness(Slowed(law, fit.Slowness(law))), 1, 1e-9);
  }
}

}  // namespace
}  // namespace interlace
