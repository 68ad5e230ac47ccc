#include "kernels/thread_team.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/kernels/random_tensor.h"

namespace interlace {
namespace {

TEST(ThreadTeamTest, EveryIndexOnceInFewRangesWithBordersOnTheGrain) {
  for (int threads = 1; threads <= 5; ++threads) {
    ThreadTeam team(threads);
    ASSERT_EQ(team.threads(), threads);
    Random random(threads);
    for (int trial = 0; trial < 300; ++trial) {
      const int64_t count = random.Below(200);
      const int64_t grain = random.Between(1, 40);
      std::vector<int> seen(count);  // a range writes its own part alone
      std::atomic<int> ranges{0};
      std::atomic<bool> on_grain{true};
      team.ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
        ++ranges;
        if (begin >= end || begin % grain != 0 || (end % grain != 0 && end != count)) on_grain = false;
        for (int64_t i = begin; i < end; ++i) ++seen[i];
      });
      EXPECT_EQ(seen, std::vector<int>(count, 1));
      EXPECT_LE(ranges, threads == 1 ? 1 : ThreadTeam::kChunksPerThread * threads);
      EXPECT_TRUE(on_grain);
    }
  }
}

// Whoever begins first is held up (as by another process on its core) until the others have done all but an eighth of
// the work. Dealt in equal shares they could do only half of it.
TEST(ThreadTeamTest, WorkIsTakenByWhoeverIsFree) {
  constexpr int64_t kCount = 64;
  ThreadTeam team(2);
  for (int trial = 0; trial < 20; ++trial) {
    std::atomic<bool> first{true};
    std::atomic<int64_t> by_others{0};
    bool gave_up = false;
    team.ParallelFor(kCount, 1, [&](int64_t begin, int64_t end) {
      if (!first.exchange(false)) {
        by_others += end - begin;
        return;
      }
      for (int64_t looks = 0; by_others < kCount - kCount / 8; ++looks) {
        if (looks == 1'000'000) {
          gave_up = true;
          return;
        }
        std::this_thread::yield();
      }
    });
    ASSERT_FALSE(gave_up) << "the others did " << by_others << " of " << kCount;
  }
}

TEST(ThreadTeamTest, NothingToDoCallsNothing) {
  ThreadTeam team(2);
  team.ParallelFor(0, 4, [](int64_t, int64_t) { FAIL(); });
}

// Thousands of short rounds in a row: no wake-up is lost, and what one member wrote the others see in the next round.
TEST(ThreadTeamTest, RoundsFollowOneAnother) {
  ThreadTeam team(3);
  constexpr int64_t kCount = 64;
  constexpr int kRounds = 5000;
  std::vector<int64_t> now(kCount);
  std::vector<int64_t> next(kCount);
  for (int round = 0; round < kRounds; ++round) {
    team.ParallelFor(kCount, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) next[i] = now[kCount - 1 - i] + 1;
    });
    now.swap(next);
  }
  EXPECT_EQ(now, std::vector<int64_t>(kCount, kRounds));
}

TEST(ThreadTeamDeathTest, NestingIsABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadTeam team(2);
        team.ParallelFor(8, 1, [&](int64_t, int64_t) { team.ParallelFor(8, 1, [](int64_t, int64_t) {}); });
      },
      "ParallelFor inside ParallelFor");
}

}  // namespace
}  // namespace interlace
