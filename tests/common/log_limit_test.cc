#include "common/log_limit.h"

#include <gtest/gtest.h>

namespace interlace {
namespace {

TEST(LogLimitTest, OneLineAPeriodThatSaysHowManyWereHeldBack) {
  const absl::Time start = absl::UnixEpoch();
  LogLimit limit(absl::Seconds(1));
  EXPECT_EQ(limit.Pass(start), 0);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(limit.Pass(start + absl::Microseconds(999 * i)), std::nullopt);
  EXPECT_EQ(limit.Pass(start + absl::Seconds(1)), 1000);
  EXPECT_EQ(limit.Pass(start + absl::Seconds(1)), std::nullopt);
  EXPECT_EQ(limit.Pass(start + absl::Seconds(60)), 1);
  EXPECT_EQ(limit.Pass(start + absl::Seconds(61)), 0);
}

}  // namespace
}  // namespace interlace
