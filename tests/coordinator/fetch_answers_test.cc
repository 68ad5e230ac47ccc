// What ranks of a stage say of fetches, joined: a block has arrived where it has on all of them.
#include "coordinator/fetch_answers.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>
#include <utility>

namespace interlace {
namespace {

LayerSet Some(std::mt19937_64& random, const LayerSet& of) {
  LayerSet some;
  of.ForEach([&](LayerId l) {
    if (random() % 3 != 0) some.Add(l);
  });
  return some;
}

// Ranks answer in any order among each other, and each its own fetches of a block one after another.
TEST(FetchAnswersTest, EveryFetchIsAnsweredOnceByWhatAllHave) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    const auto ranks = static_cast<int32_t>(1 + random() % 4);
    const LayerSet all = LayerSet::Range(0, 12);
    FetchAnswers answers(ranks);
    struct Fetch {
      FetchAnswer want;
      LayerSet uneven;
    };
    std::map<uint64_t, std::deque<Fetch>> expected;                          // by block
    std::map<std::pair<int32_t, uint64_t>, std::deque<FetchAnswer>> to_say;  // by rank and block
    size_t left = 0;
    for (int f = 0; f < 20; ++f) {
      const uint64_t block = random() % 3;
      const LayerSet asked = Some(random, all);
      LayerSet failed, anywhere;
      for (int32_t r = 0; r < ranks; ++r) {
        const LayerSet arrived = Some(random, asked);
        to_say[{r, block}].push_back({{block, 1}, arrived, asked - arrived});
        failed |= asked - arrived;
        anywhere |= arrived;
        ++left;
      }
      expected[block].push_back({{{block, 1}, asked - failed, failed}, anywhere & failed});
    }
    while (left > 0) {
      auto it = std::next(to_say.begin(), static_cast<ptrdiff_t>(random() % to_say.size()));
      if (it->second.empty()) continue;
      const auto [rank, block] = it->first;
      const auto joint = answers.Take(StageId{0}, rank, it->second.front());
      it->second.pop_front();
      --left;
      if (!joint) continue;
      ASSERT_FALSE(expected[block].empty());
      EXPECT_EQ(joint->answer, expected[block].front().want) << "seed " << seed;
      EXPECT_EQ(joint->uneven, expected[block].front().uneven) << "seed " << seed;
      expected[block].pop_front();
    }
    for (const auto& [block, rest] : expected) EXPECT_TRUE(rest.empty()) << "seed " << seed << ", block " << block;
  }
}

}  // namespace
}  // namespace interlace
