#include "coordinator/front/intake_lanes.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>

#include "absl/synchronization/notification.h"

namespace interlace {
namespace {

TEST(IntakeLanesTest, NoLargeTaskIsBeforeASmallOne) {
  absl::Notification go_on, small_ran;
  std::atomic<int> large_ran = 0;
  {
    IntakeLanes lanes("test", 3);
    for (int i = 0; i < 20; ++i) {
      lanes.Post(IntakeLanes::kSmall + 1, [&] {
        go_on.WaitForNotification();
        ++large_ran;
      });
    }
    lanes.Post(IntakeLanes::kSmall, [&] { small_ran.Notify(); });
    EXPECT_TRUE(small_ran.WaitForNotificationWithTimeout(absl::Seconds(20)));
    EXPECT_EQ(large_ran, 0);
    go_on.Notify();
  }
  EXPECT_EQ(large_ran, 20) << "what was posted runs before the lanes die";
}

TEST(IntakeLanesTest, EachTaskRunsOnce) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<std::atomic<int>> ran(200);
    {
      IntakeLanes lanes("test", static_cast<int>(1 + random() % 4));
      for (std::atomic<int>& one : ran) lanes.Post(random() % (2 * IntakeLanes::kSmall), [&one] { ++one; });
    }
    for (const std::atomic<int>& one : ran) ASSERT_EQ(one, 1) << "seed " << seed;
  }
}

}  // namespace
}  // namespace interlace
