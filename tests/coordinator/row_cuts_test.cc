// Rows of a step are divided evenly by cost, each once.
#include "coordinator/row_cuts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace interlace {
namespace {

// The cost of rows [begin, end) of the step, row by row.
double CostOfRows(const std::vector<RowRun>& runs, const RowCost& cost, int32_t begin, int32_t end) {
  double sum = 0;
  int32_t row = 0;
  for (const RowRun& run : runs) {
    for (int32_t i = 0; i < run.count; ++i, ++row) {
      if (row >= begin && row < end) sum += cost.row + cost.product * (run.start + i + 1);
    }
  }
  return sum;
}

TEST(RowCutsTest, SharesAreEvenToARow) {
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    std::mt19937_64 random(seed);
    const auto draw = [&](int32_t low, int32_t high) {
      return low + static_cast<int32_t>(random() % static_cast<uint64_t>(high - low + 1));
    };
    std::vector<RowRun> runs;
    for (int32_t n = draw(1, 5); n > 0; --n) runs.push_back({draw(0, 9000), draw(0, 3) == 0 ? 1 : draw(1, 300)});
    const RowCost cost{draw(0, 2) == 0 ? 0.0 : draw(1, 2000), draw(0, 2) == 0 ? 0.0 : 0.1 * draw(1, 20)};
    const int32_t ranks = draw(1, 6);
    const std::vector<int32_t> cuts = CutRows(runs, ranks, cost);
    ASSERT_EQ(static_cast<int32_t>(cuts.size()), ranks - 1);
    ASSERT_TRUE(std::is_sorted(cuts.begin(), cuts.end())) << "seed " << seed;
    const RowCost law = cost.row > 0 || cost.product > 0 ? cost : RowCost();
    int32_t rows = 0;
    double dearest = 0;
    for (const RowRun& run : runs) {
      rows += run.count;
      dearest = std::max(dearest, law.row + law.product * (run.start + run.count));
    }
    const double total = CostOfRows(runs, law, 0, rows);
    for (int32_t r = 0; r + 1 < ranks; ++r) {
      ASSERT_TRUE(cuts[r] >= 0 && cuts[r] <= rows);
      const double before = CostOfRows(runs, law, 0, cuts[r]), want = total * (r + 1) / ranks;
      EXPECT_LE(std::abs(before - want), dearest / 2 + 1e-9 * total) << "seed " << seed << ", cut " << r;
    }
  }
}

TEST(RowCutsTest, LaterRowsOfAPromptCostMore) {
  EXPECT_THAT(CutRows(std::vector<RowRun>{{0, 200}}, 2, {100, 1}), testing::ElementsAre(124));
  EXPECT_THAT(CutRows(std::vector<RowRun>{{0, 200}}, 4, {1, 0}), testing::ElementsAre(50, 100, 150));
  EXPECT_THAT(CutRows(std::vector<RowRun>{{7000, 1}, {0, 8}}, 2, {1, 0}), testing::ElementsAre(4));
  EXPECT_THAT(CutRows({}, 3, {1, 1}), testing::ElementsAre(0, 0));
}

}  // namespace
}  // namespace interlace
