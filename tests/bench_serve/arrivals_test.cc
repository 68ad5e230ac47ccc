// Arrival processes, by their properties over seeds.
#include "bench/serve/arrivals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

std::vector<double> Times(const ArrivalSpec& spec, uint64_t seed, int count) {
  auto arrivals = MakeArrivals(spec, MakeSeededEntropy(seed));
  EXPECT_TRUE(arrivals.ok()) << arrivals.status();
  std::vector<double> times;
  for (int i = 0; i < count; ++i) times.push_back(absl::ToDoubleSeconds((*arrivals)->Next()));
  return times;
}

struct Gaps {
  double mean = 0, cv = 0;  // cv: standard deviation / mean
};
Gaps GapsOf(const std::vector<double>& times) {
  double sum = 0, squares = 0, before = 0;
  for (double time : times) {
    sum += time - before;
    squares += (time - before) * (time - before);
    before = time;
  }
  const double n = static_cast<double>(times.size()), mean = sum / n;
  return {mean, std::sqrt(squares / n - mean * mean) / mean};
}

TEST(Arrivals, HaveTheMeanAndTheVarianceThatTheyAreAskedFor) {
  // A gamma process with shape k has gaps of mean 1/rate and cv 1/sqrt(k).
  for (double burstiness : {0.25, 0.5, 1.0, 4.0}) {
    for (double rate : {0.5, 40.0}) {
      for (uint64_t seed = 1; seed <= 5; ++seed) {
        const Gaps gaps = GapsOf(Times({.process = "gamma", .rate = rate, .burstiness = burstiness}, seed, 40000));
        EXPECT_NEAR(gaps.mean * rate, 1, 0.05 / std::sqrt(burstiness)) << burstiness << " seed " << seed;
        EXPECT_NEAR(gaps.cv * std::sqrt(burstiness), 1, 0.05) << burstiness << " seed " << seed;
      }
    }
  }
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const Gaps gaps = GapsOf(Times({.process = "poisson", .rate = 7}, seed, 40000));
    EXPECT_NEAR(gaps.mean * 7, 1, 0.03);
    EXPECT_NEAR(gaps.cv, 1, 0.03);
  }
}

TEST(Arrivals, CountsOfAPoissonProcessVaryAsTheyShould) {
  // The index of dispersion of counts in windows of a second is 1; rescaling the times would lower that of the total.
  double sum = 0, squares = 0;
  const int seeds = 400;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    const std::vector<double> times = Times({.process = "poisson", .rate = 20}, seed, 200);
    const double count = static_cast<double>(std::lower_bound(times.begin(), times.end(), 5.0) - times.begin());
    sum += count;
    squares += count * count;
  }
  const double mean = sum / seeds, variance = squares / seeds - mean * mean;
  EXPECT_NEAR(mean, 100, 2);
  EXPECT_NEAR(variance / mean, 1, 0.25);
}

TEST(Arrivals, TheSameSeedGivesTheSameTimesAndAnotherOthers) {
  for (const char* process : {"poisson", "gamma", "ramp"}) {
    const ArrivalSpec spec{.process = process, .rate = 3, .burstiness = 0.5, .rate_end = 9, .ramp = absl::Seconds(10)};
    EXPECT_EQ(Times(spec, 7, 500), Times(spec, 7, 500)) << process;
    EXPECT_NE(Times(spec, 7, 500), Times(spec, 8, 500)) << process;
  }
}

TEST(Arrivals, ARateScalesTheSameTimes) {
  for (const char* process : {"poisson", "gamma", "constant"}) {
    const std::vector<double> slow = Times({.process = process, .rate = 2}, 5, 300);
    const std::vector<double> fast = Times({.process = process, .rate = 6}, 5, 300);
    for (size_t i = 0; i < slow.size(); ++i) EXPECT_NEAR(slow[i], 3 * fast[i], 1e-6) << process;
  }
}

TEST(Arrivals, NeverGoBack) {
  for (const char* process : {"poisson", "gamma", "constant", "ramp", "burst"}) {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      const std::vector<double> times = Times(
          {.process = process, .rate = 5, .burstiness = 0.1, .rate_end = 0.5, .ramp = absl::Seconds(20)}, seed, 400);
      EXPECT_TRUE(std::is_sorted(times.begin(), times.end())) << process;
      EXPECT_GE(times.front(), 0);
    }
  }
}

TEST(Arrivals, AConstantProcessIsEven) {
  const std::vector<double> times = Times({.process = "constant", .rate = 4}, 1, 9);
  for (size_t i = 0; i < times.size(); ++i) EXPECT_DOUBLE_EQ(times[i], static_cast<double>(i) / 4);
}

TEST(Arrivals, ARampHasTheRateOfItsPlaceAndStaysAtItsEnd) {
  for (const auto& [from, to] : {std::pair(2.0, 20.0), {20.0, 2.0}}) {
    const ArrivalSpec spec{.process = "ramp", .rate = from, .rate_end = to, .ramp = absl::Seconds(10)};
    double early = 0, late = 0, after = 0;
    const int seeds = 200;
    for (uint64_t seed = 1; seed <= seeds; ++seed) {
      for (double time : Times(spec, seed, 400)) {
        if (time < 2) ++early;
        if (time >= 8 && time < 10) ++late;
        if (time >= 10 && time < 12) ++after;
      }
    }
    const double slope = (to - from) / 10;
    EXPECT_NEAR(early / seeds, 2 * (from + slope), 0.1 * 2 * (from + slope));
    EXPECT_NEAR(late / seeds, 2 * (to - slope), 0.1 * 2 * (to - slope));
    EXPECT_NEAR(after / seeds, 2 * to, 0.1 * 2 * to);
  }
}

TEST(Arrivals, ErrorsNameTheFlag) {
  const auto fault = [](ArrivalSpec spec) { return MakeArrivals(spec, MakeSeededEntropy(1)).status(); };
  const auto names = [](const char* flag) { return StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(flag)); };
  EXPECT_THAT(fault({.rate = 0}), names("--rate 0"));
  EXPECT_THAT(fault({.rate = std::nan("")}), names("--rate"));
  EXPECT_THAT(fault({.rate = INFINITY}), names("--rate"));
  EXPECT_THAT(fault({.process = "gamma", .burstiness = -1}), names("--burstiness"));
  EXPECT_THAT(fault({.process = "ramp", .rate_end = 2}), names("--ramp"));
  EXPECT_THAT(fault({.process = "ramp", .ramp = absl::Seconds(1)}), names("--rate-end"));
  EXPECT_THAT(fault({.process = "weibull"}), names("poisson, gamma"));
}

}  // namespace
}  // namespace interlace
