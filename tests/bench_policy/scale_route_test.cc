// Where requests go.
#include "bench/policy/scale_route.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

#include "common/entropy.h"
#include "tests/status_matchers.h"

namespace interlace {
namespace {

constexpr int32_t kBlock = 512;

TEST(ScaleRoute, RoundRobinGivesEachItsTurn) {
  ScaleRouter router(RouteRule::kRoundRobin, 3, kBlock);
  int32_t fresh = 0;
  for (int i = 0; i < 9; ++i) EXPECT_EQ(router.Choose({}, 1000 * (i % 2 + 1), &fresh), i % 3);
}

TEST(ScaleRoute, LeastLoadedCountsWhatWaits) {
  ScaleRouter router(RouteRule::kLeastLoaded, 2, kBlock);
  int32_t first = 0, fresh = 0;
  ASSERT_EQ(router.Choose({}, 5000, &first), 0);
  EXPECT_EQ(first, 5000);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(router.Choose({}, 1000, &fresh), 1) << i;  // 4000 in all
  router.OnFirstToken(0, first);
  EXPECT_EQ(router.Choose({}, 1000, &fresh), 0);
}

TEST(ScaleRoute, EqualQueuesGoByOpenRequests) {
  ScaleRouter router(RouteRule::kLeastLoaded, 2, kBlock);
  int32_t fresh = 0;
  ASSERT_EQ(router.Choose({}, 100, &fresh), 0);
  router.OnFirstToken(0, fresh);
  ASSERT_EQ(router.Choose({}, 100, &fresh), 1);
  router.OnFirstToken(1, fresh);
  router.OnEnd(1);
  EXPECT_EQ(router.Choose({}, 100, &fresh), 1);
}

TEST(ScaleRoute, APrefixIsWorthAsManyTokensOfQueue) {
  ScaleRouter router(RouteRule::kPrefix, 2, kBlock);
  int32_t fresh = 0;
  ASSERT_EQ(router.Choose({{1, 2, 3, 4}}, 2048, &fresh), 0);
  router.OnFirstToken(0, fresh);
  // 2,000 tokens of which 1,536 are known: 464 to compute.
  EXPECT_EQ(router.Choose({{1, 2, 3, 9}}, 2000, &fresh), 0);
  EXPECT_EQ(fresh, 464);
  // The same again finds 464 in the queue and 464 to compute: still less than 2,000 at the other.
  EXPECT_EQ(router.Choose({{1, 2, 3, 10}}, 2000, &fresh), 0);
  // A prompt that shares one block only: 928 + 88 here, 600 there.
  EXPECT_EQ(router.Choose({{1, 20}}, 600, &fresh), 1);
  EXPECT_EQ(fresh, 600);
}

// Against the rule's own words, worked out from all that was sent.
TEST(ScaleRoute, PrefixChoosesTheNearestFirstToken) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
    const auto draw = [&](uint64_t most) { return static_cast<int32_t>(entropy->Next() % most); };
    const int32_t replicas = 2 + draw(5);
    ScaleRouter router(RouteRule::kPrefix, replicas, kBlock);
    std::vector<std::set<int64_t>> sent(static_cast<size_t>(replicas));
    std::vector<int64_t> queued(static_cast<size_t>(replicas));
    struct Open {
      int32_t replica, fresh;
    };
    std::vector<Open> open;
    for (int i = 0; i < 200; ++i) {
      std::vector<int64_t> blocks;
      const int32_t conversation = draw(6);
      const int32_t tokens = 1 + draw(4000);
      for (int32_t b = 0; b * kBlock < tokens; ++b) {
        blocks.push_back(draw(8) == 0 ? 1000000 + i * 100 + b : conversation * 1000 + b);
      }
      const auto fresh_at = [&](int32_t r) {
        int32_t known = 0;
        for (int64_t block : blocks) {
          if (sent[static_cast<size_t>(r)].count(block) == 0) break;
          known += kBlock;
        }
        return std::max(0, tokens - known);
      };
      int32_t fresh = 0;
      const int32_t chosen = router.Choose(blocks, tokens, &fresh);
      EXPECT_EQ(fresh, fresh_at(chosen));
      for (int32_t r = 0; r < replicas; ++r) {
        EXPECT_LE(queued[static_cast<size_t>(chosen)] + fresh, queued[static_cast<size_t>(r)] + fresh_at(r))
            << "seed " << seed << " request " << i << " replica " << r;
      }
      sent[static_cast<size_t>(chosen)].insert(blocks.begin(), blocks.end());
      queued[static_cast<size_t>(chosen)] += fresh;
      open.push_back({chosen, fresh});
      while (!open.empty() && draw(3) != 0) {
        const size_t at = static_cast<size_t>(draw(open.size()));
        router.OnFirstToken(open[at].replica, open[at].fresh);
        router.OnEnd(open[at].replica);
        queued[static_cast<size_t>(open[at].replica)] -= open[at].fresh;
        open.erase(open.begin() + static_cast<ptrdiff_t>(at));
      }
    }
  }
}

TEST(ScaleRoute, NamesAreRead) {
  for (const char* name : {"round-robin", "least-loaded", "prefix"})
    EXPECT_EQ(RouteRuleName(*ParseRouteRule(name)), name);
  EXPECT_THAT(ParseRouteRule("random").status(),
              StatusIs(absl::StatusCode::kInvalidArgument, testing::HasSubstr("least-loaded")));
}

}  // namespace
}  // namespace interlace
