// What is told of a request stays bounded, and says what it means.
#include "coordinator/explanation.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

#include "common/entropy.h"

namespace interlace {
namespace {

Decision At(int32_t ms, DecisionKind kind, int64_t figure = 0, std::string detail = "") {
  return {.kind = kind, .at = absl::Milliseconds(ms), .figures = {figure}, .detail = std::move(detail)};
}

TEST(Explanation, TheSameAgainOnlyCountsUp) {
  Explanation e;
  e.Add(At(1, DecisionKind::kNoRoom, 7));
  e.Add(At(2, DecisionKind::kNoRoom, 6));
  e.Add(At(9, DecisionKind::kNoRoom, 5));
  e.Add(At(10, DecisionKind::kStarted));
  e.Add(At(11, DecisionKind::kNoRoom, 4));
  e.Add(At(12, DecisionKind::kParkedForRoom, 0, "a"));
  e.Add(At(13, DecisionKind::kParkedForRoom, 0, "b"));
  ASSERT_EQ(e.decisions.size(), 5u);
  EXPECT_EQ(e.decisions[0].times, 3);
  EXPECT_EQ(e.decisions[0].at, absl::Milliseconds(1));
  EXPECT_EQ(e.decisions[0].until, absl::Milliseconds(9));
  EXPECT_EQ(e.decisions[0].figures[0], 5);
  EXPECT_EQ(e.decisions[1].times, 1);
  EXPECT_EQ(e.decisions[2].times, 1);
}

// Whatever comes, in whatever order: the first ones and the last are there, and what is not is counted.
TEST(Explanation, IsBounded) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    const std::unique_ptr<Entropy> entropy = MakeSeededEntropy(seed);
    Explanation e;
    std::vector<Decision> all;  // runs
    const auto total = static_cast<int32_t>(entropy->Next() % 400);
    for (int32_t i = 0; i < total; ++i) {
      const auto kind = static_cast<DecisionKind>(entropy->Next() % 3);
      if (all.empty() || all.back().kind != kind) all.push_back(At(i, kind));
      e.Add(At(i, kind));
    }
    ASSERT_LE(e.decisions.size(), Explanation::kMostDecisions);
    ASSERT_EQ(e.decisions.size() + static_cast<size_t>(e.decisions_left_out), all.size());
    for (size_t i = 0; i < e.decisions.size(); ++i) {
      const size_t from = i < Explanation::kFirstDecisions ? i : i + static_cast<size_t>(e.decisions_left_out);
      EXPECT_EQ(e.decisions[i].kind, all[from].kind) << "seed " << seed;
      EXPECT_EQ(e.decisions[i].at, all[from].at) << "seed " << seed;
    }
  }
}

TEST(Explanation, EachKindHasANameAndAText) {
  std::set<absl::string_view> names;
  for (size_t i = 0; i < kDecisionKinds; ++i) {
    const auto kind = static_cast<DecisionKind>(i);
    EXPECT_TRUE(names.insert(DecisionName(kind)).second) << DecisionName(kind);
    const std::string text = DecisionText({.kind = kind, .figures = {11, 22, 33}, .detail = "whom"});
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(text.find('$'), std::string::npos) << text;
  }
  EXPECT_EQ(DecisionText({.kind = DecisionKind::kNoRoom, .figures = {33, 12}}),
            "waits for room: 33 blocks wanted, 12 free");
}

}  // namespace
}  // namespace interlace
