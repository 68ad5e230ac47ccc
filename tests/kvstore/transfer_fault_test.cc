// Every fault that can be injected ends in a refusal that is counted, never in wrong bytes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/kvstore/engine_rig.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

using testing::HasSubstr;
using Memory = EngineRig::Memory;

struct FaultCase {
  std::string point;
  absl::StatusCode code;
  std::string says;
};
void PrintTo(const FaultCase& fault, std::ostream* out) { *out << fault.point; }

class TransferFaultTest : public testing::TestWithParam<FaultCase> {};

TEST_P(TransferFaultTest, IsSeenCountedAndForgotten) {
  const FaultCase& fault = GetParam();
  EngineRig rig({.faults = fault.point + ":1"});
  const std::vector<BlockKey> keys = {Key(1, 0, 0), Key(1, 1, 0), Key(2, 0, 0)};
  for (const MoveResult& result : rig.Write(keys)) ASSERT_OK(result.status);
  Memory to = rig.Blank(1);
  EXPECT_THAT(rig.Read({keys[0]}, to)[0].status, StatusIs(fault.code, HasSubstr(fault.says)));
  EXPECT_EQ(to, rig.Blank(1)) << "bytes were delivered";
  EXPECT_FALSE(rig.engine->Holds(keys[0]));
  EXPECT_TRUE(rig.engine->Holds(keys[1]));
  const bool lost = fault.code == absl::StatusCode::kNotFound;
  EXPECT_EQ(rig.engine->Stats().corrupt, lost ? 0 : 1);
  EXPECT_EQ(rig.engine->Stats().missing, lost ? 1 : 0);
  EXPECT_EQ(rig.engine->Stats().blocks_in, 0);
  EXPECT_GE(rig.faults->fired(fault.point), 1);
}

INSTANTIATE_TEST_SUITE_P(
    Points, TransferFaultTest,
    testing::Values(FaultCase{"kv.flip_in_flight", absl::StatusCode::kDataLoss, "does not match"},
                    FaultCase{"kv.flip_at_rest", absl::StatusCode::kDataLoss, "does not match"},
                    FaultCase{"kv.swap_layer", absl::StatusCode::kDataLoss, "key (generation 1 layer 1"},
                    FaultCase{"kv.swap_request", absl::StatusCode::kDataLoss, "key (generation 2 layer 0"},
                    FaultCase{"kv.read_lost", absl::StatusCode::kNotFound, "kv.read_lost"}));

// All of them at once, at random: what is delivered is right, what is not is counted.
TEST(TransferFaultsTest, AllAtOnceNeverDeliverWrongBytes) {
  int64_t delivered = 0, refused = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    EngineRig rig({.faults = "kv.flip_in_flight:0.1,kv.flip_at_rest:0.1,kv.swap_layer:0.1,kv.swap_request:0.1,"
                             "kv.read_lost:0.1",
                   .fault_seed = seed});
    std::vector<BlockKey> keys;
    for (uint64_t generation = 1; generation <= 3; ++generation) {
      for (int32_t layer = 0; layer < 4; ++layer) {
        for (uint64_t b = 0; b < 8; ++b) keys.push_back(Key(generation, layer, b));
      }
    }
    int64_t bad = 0;
    for (int round = 0; round < 3; ++round) {
      rig.Write(keys);
      Memory to = rig.Blank(keys.size());
      const auto results = rig.Read(keys, to);
      for (size_t i = 0; i < keys.size(); ++i) {
        if (results[i].status.ok()) {
          EXPECT_EQ(to[i], Payload(keys[i], kRigPayload));
          EXPECT_TRUE(rig.engine->Holds(keys[i]));
          ++delivered;
        } else {
          EXPECT_EQ(to[i], rig.Blank(1)[0]);
          EXPECT_FALSE(rig.engine->Holds(keys[i]));
          ++bad;
        }
      }
    }
    EXPECT_EQ(rig.engine->Stats().corrupt + rig.engine->Stats().missing, bad);
    refused += bad;
  }
  EXPECT_GT(delivered, 1000);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace interlace
