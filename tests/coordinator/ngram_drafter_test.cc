#include "coordinator/ngram_drafter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/entropy.h"

namespace interlace {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(NgramDrafterTest, SaysWhatFollowedTheLatestEarlierOccurrence) {
  NgramDrafter drafter;
  EXPECT_THAT(drafter.Draft({1}, 4), IsEmpty());
  EXPECT_THAT(drafter.Draft({1, 2, 3, 4}, 4), IsEmpty());
  EXPECT_THAT(drafter.Draft({1, 2, 3, 4, 1, 2, 3}, 2), ElementsAre(4, 1));
  EXPECT_THAT(drafter.Draft({1, 2, 3, 4, 1, 2, 3, 5, 9, 2, 3}, 3), ElementsAre(5, 9, 2)) << "the last two tokens count";
}

TEST(NgramDrafterTest, ARepetitionGoesOnAsLongAsIsAskedFor) {
  EXPECT_THAT(NgramDrafter().Draft({7, 7, 7}, 4), ElementsAre(7, 7, 7, 7));
  EXPECT_THAT(NgramDrafter().Draft({1, 2, 1, 2, 1}, 5), ElementsAre(2, 1, 2, 1, 2));
}

// The same by a search through all tokens.
std::vector<int32_t> Searched(const std::vector<int32_t>& tokens, size_t most) {
  for (size_t length : {size_t{3}, size_t{2}}) {
    if (tokens.size() < length) continue;
    for (size_t end = tokens.size() - 1; end >= length; --end) {
      if (!std::equal(tokens.end() - static_cast<ptrdiff_t>(length), tokens.end(),
                      tokens.begin() + static_cast<ptrdiff_t>(end - length))) {
        continue;
      }
      std::vector<int32_t> all = tokens;
      for (size_t i = 0; i < most; ++i) all.push_back(all[end + i]);
      return {all.begin() + static_cast<ptrdiff_t>(tokens.size()), all.end()};
    }
  }
  return {};
}

TEST(NgramDrafterTest, IsASearchThroughAllTokens) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const auto entropy = MakeSeededEntropy(seed);
    const uint64_t vocabulary = 2 + entropy->Next() % 6;
    std::vector<int32_t> tokens;
    NgramDrafter drafter;
    while (tokens.size() < 120) {
      for (uint64_t more = 1 + entropy->Next() % 5; more > 0; --more) {
        tokens.push_back(static_cast<int32_t>(entropy->Next() % vocabulary));
      }
      const size_t most = 1 + entropy->Next() % 6;
      ASSERT_EQ(drafter.Draft(tokens, static_cast<int32_t>(most)), Searched(tokens, most)) << "seed " << seed;
    }
  }
}

TEST(NgramDrafterTest, WhatIsExpectedIsDraftedWhereTheSequenceSaysNothing) {
  NgramDrafter drafter;
  drafter.Expect({1, 2, 3, 4, 5, 6});
  EXPECT_THAT(drafter.Draft({9, 1, 2}, 3), ElementsAre(3, 4, 5));
  EXPECT_THAT(drafter.Draft({9, 1, 2, 8, 1, 2}, 3), ElementsAre(8, 1, 2));  // its own words come first
  EXPECT_THAT(drafter.Draft({9, 1, 2, 8, 1, 2, 3}, 3), ElementsAre(4, 5, 6));
  EXPECT_THAT(drafter.Draft({9, 1, 2, 8, 1, 2, 3, 4, 5}, 3), ElementsAre(6));  // no further than it goes
  EXPECT_TRUE(drafter.Draft({9, 1, 2, 8, 1, 2, 3, 4, 5, 6}, 3).empty());
  EXPECT_TRUE(NgramDrafter().Draft({9, 1, 2}, 3).empty());
}

}  // namespace
}  // namespace interlace
