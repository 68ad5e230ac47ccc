#include <gtest/gtest.h>

#include "common/log.h"
#include "tests/sim/simulation.h"

namespace interlace::sim {
namespace {

TEST(Simulation, Seeds) {
  SetLogSink([](const LogEvent&) {}, LogLevel::kError);
  const char* one = getenv("INTERLACE_SIM_SEED");
  if (one) {
    Outcome o = Simulate(DrawScenario(atoll(one)), Canary::kNone, true);
    for (auto& f : o.failures) ADD_FAILURE() << f;
    return;
  }
  int64_t n = getenv("N") ? atoll(getenv("N")) : 1000;
  int bad = 0;
  for (int64_t seed = 0; seed < n; ++seed) {
    if (getenv("PRINT")) { printf("seed %ld\n", seed); fflush(stdout); }
    Outcome o = Simulate(DrawScenario(seed));
    if (!o.failures.empty()) { printf("seed %ld: %s\n", seed, o.failures[0].c_str()); if (++bad > 20) break; }
  }
  EXPECT_EQ(bad, 0);
}

}  // namespace
}  // namespace interlace::sim
