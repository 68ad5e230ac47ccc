// What every tier promises, as tests. A test binary lists tier_conformance.cc among its sources and says
//   INSTANTIATE_TEST_SUITE_P(Memory, TierConformance, testing::Values(TierCase{"memory", MakeMemory, 1 << 20}));
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvstore/tier/tier.h"
#include "tests/kvstore/tier_calls.h"

namespace interlace {

// A tier with what must outlive it (folder, server, transport).
class TierUnderTest {
 public:
  virtual ~TierUnderTest() = default;
  virtual KvTier& tier() = 0;
  // What is stored now, asked of the place itself where the tier's own Usage() may lag behind.
  virtual TierUsage UsageNow() { return tier().Usage(); }
};

struct TierCase {
  std::string name;
  std::function<std::unique_ptr<TierUnderTest>(int64_t bytes)> make;
  int64_t least_bytes;  // the smallest size that make takes
  // Puts are answered before the place that UsageNow speaks of has taken them; it skips those that it is too slow for.
  bool write_behind = false;
};
inline void PrintTo(const TierCase& tier_case, std::ostream* out) { *out << tier_case.name; }

class TierConformance : public testing::TestWithParam<TierCase> {};

}  // namespace interlace
