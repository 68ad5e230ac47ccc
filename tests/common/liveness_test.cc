#include "common/liveness.h"

#include <gtest/gtest.h>

#include "common/backoff.h"
#include "common/clock.h"

namespace interlace {
namespace {

constexpr absl::Duration kMs = absl::Milliseconds(1);

// A watcher that looks when it is told to, at a peer that speaks as it should, for as long as it is not stopped.
TEST(Liveness, SilenceIsNoticedInTimeAndSpeechIsNotMistakenForIt) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
    ManualClock clock;
    Liveness liveness({}, clock.Now());
    const absl::Time begin = clock.Now();
    const absl::Time stopped = begin + kMs * static_cast<int64_t>(entropy->Next() % 20000);
    absl::Time says = begin, last_said = begin;
    while (true) {
      const absl::Time now = clock.Now();
      for (; says <= now && says <= stopped; says += kMs * static_cast<int64_t>(300 + entropy->Next() % 300)) {
        last_said = says;
        liveness.Heard(now);
      }
      if (liveness.MustSpeak(now)) liveness.Spoke(now);
      if (liveness.IsSilent(now)) break;
      ASSERT_GT(liveness.NextLook(), now) << "the watcher would spin";
      // Woken a little late, or early.
      clock.Advance(std::min(liveness.NextLook() - now, kMs * static_cast<int64_t>(1 + entropy->Next() % 400)));
    }
    EXPECT_GE(clock.Now() - last_said, absl::Seconds(2)) << "seed " << seed;
    EXPECT_LE(clock.Now() - last_said, absl::Milliseconds(2500)) << "seed " << seed;
  }
}

TEST(Liveness, SpeaksEveryHalfSecondUnlessItSpokeAnyway) {
  ManualClock clock;
  Liveness liveness({}, clock.Now());
  EXPECT_FALSE(liveness.MustSpeak(clock.Now()));
  clock.Advance(400 * kMs);
  liveness.Spoke(clock.Now());
  clock.Advance(400 * kMs);
  EXPECT_FALSE(liveness.MustSpeak(clock.Now()));
  EXPECT_EQ(liveness.NextLook(), clock.Now() + 100 * kMs);
  clock.Advance(100 * kMs);
  EXPECT_TRUE(liveness.MustSpeak(clock.Now()));
}

// A process that was stopped finds the words of the others in its sockets only after it has looked at the clock.
TEST(Liveness, AWatcherThatWasStoppedBeginsAnew) {
  ManualClock clock;
  Liveness liveness({}, clock.Now());
  clock.Advance(absl::Hours(1));
  EXPECT_FALSE(liveness.IsSilent(clock.Now()));
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(liveness.IsSilent(clock.Now()));
    clock.Advance(500 * kMs);
  }
  EXPECT_TRUE(liveness.IsSilent(clock.Now())) << "but it does notice a silence that goes on";
}

TEST(Backoff, DoublesUpToItsBoundWithJitterAndBeginsAnew) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    Backoff backoff({}, MakeSeededEntropy(seed));
    for (int round = 0; round < 2; ++round) {
      for (int64_t full : {100, 200, 400, 800, 1600, 2000, 2000}) {
        const absl::Duration wait = backoff.Next();
        EXPECT_GE(wait, full / 2 * kMs);
        EXPECT_LE(wait, full * kMs);
      }
      backoff.Reset();
    }
  }
  EXPECT_NE(Backoff({}, MakeSeededEntropy(1)).Next(), Backoff({}, MakeSeededEntropy(2)).Next());
}

}  // namespace
}  // namespace interlace
