#include "cli/drain_progress.h"

#include <gtest/gtest.h>

#include "tests/status_matchers.h"

namespace interlace {
namespace {

using ::testing::HasSubstr;

TEST(DrainProgressTest, SaysHowFarItIs) {
  EXPECT_EQ(DrainLine({}), "open: new requests are taken");
  EXPECT_EQ(DrainLine({.draining = true, .left = 1}), "draining: 1 request left");
  EXPECT_EQ(DrainLine({.draining = true, .left = 3, .until_cut = absl::Seconds(12)}),
            "draining: 3 requests left, cut in 12 s");
  EXPECT_EQ(DrainLine({.draining = true, .stopping = true, .left = 0, .cut = 2}),
            "stopping: 0 requests left, 2 cut so far");
}

TEST(DrainProgressTest, SaysHowFarAReplicaIs) {
  EXPECT_EQ(ReplicaLine(1, {.draining = true, .left = 3}), "replica 1: draining, 3 requests left");
  EXPECT_EQ(ReplicaLine(0, {.draining = true, .left = 1}), "replica 0: draining, 1 request left");
  EXPECT_EQ(ReplicaLine(0, {.draining = true}), "replica 0: drained");
  EXPECT_EQ(ReplicaLine(2, {.left = 9}), "replica 2: open, new requests are taken");
  const auto read = ParseDrainProgress(
      R"({"draining":false,"stopping":false,"requests_left":4,"requests_cut":0,"seconds_until_cut":null,)"
      R"("replicas":[{"draining":false,"requests_left":4},{"draining":true,"requests_left":0}]})");
  ASSERT_OK(read);
  ASSERT_EQ(read->replicas.size(), 2u);
  EXPECT_EQ(read->replicas[0].left, 4);
  EXPECT_TRUE(read->replicas[1].draining);
}

TEST(DrainProgressTest, ReadsTheDoorsWordsAndNothingElse) {
  const auto read = ParseDrainProgress(
      R"({"draining":true,"stopping":false,"requests_left":4,"requests_cut":1,"seconds_until_cut":2.5})");
  ASSERT_OK(read);
  EXPECT_TRUE(read->draining);
  EXPECT_EQ(read->left, 4);
  EXPECT_EQ(read->cut, 1);
  EXPECT_EQ(*read->until_cut, absl::Seconds(2.5));
  for (const char* other : {"", "[]", "{}", "{\"draining\":1}", "<html>", "{\"draining\":true,\"stopping\":false}"}) {
    EXPECT_THAT(ParseDrainProgress(other), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("/debug/drain")))
        << other;
  }
}

}  // namespace
}  // namespace interlace
