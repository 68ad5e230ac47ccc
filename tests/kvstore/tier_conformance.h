// What every tier promises, as tests. A test binary lists tier_conformance.cc among its sources and says
//   INSTANTIATE_TEST_SUITE_P(Host, TierConformance, testing::Values(TierCase{"host", MakeHost}));
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvstore/tier/tier.h"

namespace interlace {

// A tier with what must outlive it (folder, server, transport).
class TierUnderTest {
 public:
  virtual ~TierUnderTest() = default;
  virtual KvTier& tier() = 0;
  // What is stored now, asked of the place itself where the tier's own Usage() may lag behind a Drop.
  virtual TierUsage UsageNow() { return tier().Usage(); }
};

struct TierCase {
  std::string name;
  std::function<std::unique_ptr<TierUnderTest>(int64_t capacity_bytes)> make;
};
inline void PrintTo(const TierCase& tier_case, std::ostream* out) { *out << tier_case.name; }

class TierConformance : public testing::TestWithParam<TierCase> {};

// Calls that wait for the answer.
std::vector<absl::Status> WriteAll(KvTier& tier, std::vector<StoredBlock> blocks);
std::vector<absl::StatusOr<SharedBytes>> ReadAll(KvTier& tier, std::vector<BlockKey> keys);

}  // namespace interlace
